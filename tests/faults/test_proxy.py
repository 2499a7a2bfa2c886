"""pytest tests/faults/test_proxy.py — a store behind a bad network: the same bytes in the end, or an error that names it."""

import os
import uuid

import pytest

from opsd_core.errors import IntegrityError, ServiceError
from tasks.runtime.settings import Settings, load_settings
from tasks.storage.artifacts import fetch, find, publish
from tasks.storage.quarantine import quarantined
from tasks.storage.s3 import open_store
from tests.faults.proxy import FAULTS, FaultProxy

NUM_ARTIFACTS = 4


@pytest.fixture
def behind(stack, tmp_path):
    """`behind(proxy)`: settings whose object store is reached through the proxy."""
    settings = load_settings({**stack.env, "OPSD_HOME": str(tmp_path), "OPSD_STATE": str(tmp_path)})
    return lambda proxy: Settings.model_validate({**settings.model_dump(), "s3_endpoint": proxy.url, "s3_timeout_s": 1.0})


@pytest.fixture
def made(tmp_path):
    """Folders of three files each, the same for every test."""
    folders = []
    for number in range(NUM_ARTIFACTS):
        folder = tmp_path / f"made{number}"
        folder.mkdir()
        for file in range(3):
            (folder / f"{file}.bin").write_bytes(bytes((number * 7 + file * 3 + i) % 251 for i in range(5000)))
        folders.append(folder)
    return folders


def campaign(store, made, cache):
    """What stages do with a store: look, publish, look again, read, hold a lease."""
    digests = []
    with store.lease("leases/one", 30.0):
        for number, folder in enumerate(made):
            identity = {"number": number}
            if find(store, "rollouts", identity) is None:
                publish(store, "rollouts", identity, folder, {})
            found = find(store, "rollouts", identity)
            copy = fetch(store, found, cache)
            assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
                path.name: path.read_bytes() for path in folder.iterdir()
            }
            digests.append(found.digest)
    return digests


def stored(store):
    return [(info.key, info.size) for info in store.list("") if not info.key.startswith("leases/")]


EACH = [pytest.param({fault: 0.2}, id=fault, marks=pytest.mark.slow) for fault in FAULTS]


@pytest.mark.parametrize("rates", [*EACH, pytest.param({"all": 0.1}, id="all")])
def test_the_same_artifacts_in_the_end(stack, behind, made, tmp_path, rates):
    if "all" in rates:
        rates = dict.fromkeys(FAULTS, rates["all"] / len(FAULTS)) | {"error": 0.05, "torn": 0.05}
    url, name = stack.env["AWS_ENDPOINT_URL_S3"], uuid.uuid4().hex
    with FaultProxy(url, {}) as clean, FaultProxy(url, rates, seed=20261122, stall_s=1.5) as bad:
        expected = campaign(open_store(f"s3://opsd/clean-{name}", behind(clean)), made, tmp_path / "clean")
        store = open_store("s3://opsd/bad", behind(bad))
        for info in store.list(""):
            store.delete(info.key)
        assert campaign(store, made, tmp_path / "bad") == expected
        assert bad.injected.total() >= 3, bad.injected
        assert clean.injected.total() == 0
        assert stored(store) == stored(open_store(f"s3://opsd/clean-{name}", behind(clean)))
        assert quarantined(store) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [("error", "failed after bounded retries"), ("reset", "does not answer"), ("timeout", "does not answer")],
)
def test_a_store_that_never_answers_is_named_after_bounded_retries(stack, behind, fault, message):
    with FaultProxy(stack.env["AWS_ENDPOINT_URL_S3"], {fault: 1.0}, stall_s=1.5) as proxy:
        with pytest.raises(ServiceError, match=message):
            open_store("s3://opsd/never", behind(proxy)).probe()
        assert 2 <= proxy.num_requests <= 4  # two attempts to put, two to delete


def test_bytes_damaged_on_every_way_up_are_never_stored(stack, behind, made):
    with FaultProxy(stack.env["AWS_ENDPOINT_URL_S3"], {"upload": 1.0}) as proxy:
        store = open_store(f"s3://opsd/up-{uuid.uuid4().hex}", behind(proxy))
        with pytest.raises(ServiceError, match="receives other bytes than are sent"):
            publish(store, "rollouts", {}, made[0], {})
        assert store.list("") == [] and proxy.injected["upload"] > 1


def test_bytes_damaged_on_every_way_down_are_never_used_and_not_taken_for_stored_ones(stack, behind, made, tmp_path):
    url = stack.env["AWS_ENDPOINT_URL_S3"]
    with FaultProxy(url, {}) as clean, FaultProxy(url, {"wrong": 1.0}) as bad:
        root = f"s3://opsd/down-{uuid.uuid4().hex}"
        store = open_store(root, behind(clean))
        artifact = publish(store, "rollouts", {}, made[0], {})
        with pytest.raises(ServiceError, match="torn or altered several times"):
            open_store(root, behind(bad)).get(f"{artifact.key}/MANIFEST.json")
        with pytest.raises(ServiceError, match="4 reads gave 4 different contents"):
            fetch(open_store(root, behind(bad)), artifact, tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == [] and quarantined(store) == []
        assert find(store, "rollouts", {}) == artifact


def test_a_vanished_bucket_is_named_by_every_operation(stack, behind, made, tmp_path):
    with FaultProxy(stack.env["AWS_ENDPOINT_URL_S3"], {}) as proxy:
        store = open_store(f"s3://gone-{uuid.uuid4().hex}", behind(proxy))
        store.ensure_bucket()
        artifact = publish(store, "rollouts", {}, made[0], {})
        for info in store.list(""):
            store.delete(info.key)
        store._client.delete_bucket(Bucket=store.bucket)
        for action in (
            lambda: find(store, "rollouts", {}),
            lambda: publish(store, "rollouts", {}, made[0], {}),
            lambda: fetch(store, artifact, tmp_path / "cache"),
            lambda: store.put_if_absent("a", b""),
            store.probe,
        ):
            with pytest.raises(ServiceError, match=f"has no bucket '{store.bucket}'"):
                action()


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_named_and_the_next_try_succeeds(stack, behind, made, tmp_path):
    cache = tmp_path / "small"
    cache.mkdir()
    assert os.system(f"mount -t tmpfs -o size=64k tmpfs {cache}") == 0
    try:
        with FaultProxy(stack.env["AWS_ENDPOINT_URL_S3"], {}) as proxy:
            store = open_store(f"s3://opsd/full-{uuid.uuid4().hex}", behind(proxy))
            artifact = publish(store, "rollouts", {}, made[0], {})
            (cache / "filling").write_bytes(b"x" * 50_000)
            with pytest.raises(ServiceError, match=r"needs 15000 bytes, .* has \d+ free"):
                fetch(store, artifact, cache)
            store.put("large", b"x" * 100_000)
            with pytest.raises(ServiceError, match="the disk is full"):
                store.download("large", cache / "large")
            with pytest.raises(ServiceError, match="the disk is full"):
                publish(store, "rollouts", {"other": 1}, _grown(made[1]), {}, cache=cache)
            assert [path.name for path in cache.iterdir()] == ["filling"]
            (cache / "filling").unlink()
            assert (fetch(store, artifact, cache) / "0.bin").read_bytes() == (made[0] / "0.bin").read_bytes()
    finally:
        os.system(f"umount {cache}")


def _grown(folder):
    (folder / "large.bin").write_bytes(b"x" * 80_000)
    return folder


def test_wrong_stored_bytes_heal_by_running_again_through_a_proxy(stack, behind, made, tmp_path):
    with FaultProxy(stack.env["AWS_ENDPOINT_URL_S3"], {}) as proxy:
        store = open_store(f"s3://opsd/heal-{uuid.uuid4().hex}", behind(proxy))
        artifact = publish(store, "rollouts", {}, made[0], {})
        store.put(f"{store.key_of(artifact.uri)}/1.bin", b"x" * 5000)
        with pytest.raises(IntegrityError, match=r"file 1.bin: expected sha256"):
            fetch(store, artifact, tmp_path / "cache")
        assert find(store, "rollouts", {}) is None and len(quarantined(store)) == 1
        assert publish(store, "rollouts", {}, made[0], {}) == find(store, "rollouts", {}) == artifact
        assert (fetch(store, artifact, tmp_path / "cache") / "1.bin").read_bytes() == (made[0] / "1.bin").read_bytes()
