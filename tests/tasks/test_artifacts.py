"""Artifacts on a real S3 server and in a folder: found, published once, and never read when damaged."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from opsd_core.digest import canonical_json, digest, file_digest
from opsd_core.errors import ConfigError, IntegrityError
from tasks.storage.artifacts import Artifact, artifact_key, describe, discard, fetch, find, prune_cache, publish
from tasks.storage.manifest import parse_manifest
from tasks.storage.process_mark import process_tag
from tasks.storage.quarantine import quarantine, quarantined

IDENTITY = {"policy": "ab12", "seed": 7, "sampling": {"temperature": 1.0, "top_p": 0.9}}
FILES = {"part-0.parquet": b"rows" * 50, "nested/config.json": b'{"a": 1}'}


def folder_with(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def published(store, tmp_path) -> Artifact:
    return publish(store, "rollouts", IDENTITY, folder_with(tmp_path / "made", FILES), {"rows": 50})


def data_key(store, artifact: Artifact, name: str) -> str:
    return f"{store.key_of(artifact.uri)}/{name}"


def test_published_files_are_found_described_and_fetched(store, published, tmp_path):
    assert published.key == artifact_key("rollouts", IDENTITY) and published.num_bytes == 208
    assert find(store, "rollouts", IDENTITY) == published
    assert describe(store, published.uri) == describe(store, store.uri(published.key)) == published
    assert Artifact.from_dict(json.loads(json.dumps(published.to_dict()))) == published
    folder = fetch(store, published, tmp_path / "cache")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(FILES)
    assert all((folder / name).read_bytes() == data for name, data in FILES.items())
    assert fetch(store, published.uri, tmp_path / "cache") == folder
    assert (published.summary, published.identity) == ({"rows": 50}, IDENTITY)


def test_identity_decides_the_key_and_order_does_not():
    shuffled = dict(reversed(IDENTITY.items()))
    assert artifact_key("rollouts", shuffled) == artifact_key("rollouts", IDENTITY)
    assert artifact_key("rollouts", {**IDENTITY, "seed": 8}) != artifact_key("rollouts", IDENTITY)
    assert artifact_key("targets", IDENTITY)[-32:] != artifact_key("rollouts", IDENTITY)[-32:]
    for kind in ("", "../x", "a/b", "Rollouts", "x" * 64):
        with pytest.raises(ConfigError, match="no artifact kind"):
            artifact_key(kind, IDENTITY)


def test_nothing_is_found_before_the_manifest_stands(store, tmp_path):
    assert find(store, "rollouts", IDENTITY) is None
    with pytest.raises(IntegrityError, match="does not exist"):
        describe(store, store.uri(artifact_key("rollouts", IDENTITY)))
    with pytest.raises(IntegrityError, match="nothing to publish"):
        publish(store, "rollouts", IDENTITY, tmp_path / "absent", {})


def test_the_summary_does_not_change_the_digest(store, published, tmp_path):
    again = publish(store, "rollouts", IDENTITY, tmp_path / "made", {"rows": 50, "seconds": 3.1})
    assert again == published


def test_another_outcome_is_dropped_and_the_first_one_stands(store, published, tmp_path, caplog):
    other = folder_with(tmp_path / "other", {**FILES, "part-0.parquet": b"else" * 50})
    with caplog.at_level(logging.WARNING):
        assert publish(store, "rollouts", IDENTITY, other, {}) == published
    assert published.digest in caplog.text and "the first one stands" in caplog.text
    with pytest.raises(IntegrityError, match=rf"{published.digest} came first, [0-9a-f]{{64}} second"):
        publish(store, "rollouts", IDENTITY, other, {}, reproducible=True)
    assert len(store.list(published.key + "/")) == 3
    assert fetch(store, published, tmp_path / "cache").joinpath("part-0.parquet").read_bytes() == b"rows" * 50


def test_racing_writers_agree_on_one_outcome(store, tmp_path):
    results, barrier = [], threading.Barrier(4)

    def write(number: int) -> None:
        folder = folder_with(tmp_path / str(number), {"data": b"%d" % number})
        barrier.wait()
        results.append(publish(store, "race", IDENTITY, folder, {}))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len({artifact.digest for artifact in results}) == 1
    assert len(store.list(results[0].key)) == 2


@pytest.mark.parametrize("position", [0, 100, 199])
def test_a_flipped_byte_is_refused(store, published, tmp_path, position):
    data = bytearray(FILES["part-0.parquet"])
    data[position] ^= 1
    store.put(data_key(store, published, "part-0.parquet"), bytes(data))
    pattern = r"part-0.parquet: expected sha256 [0-9a-f]{64}, actual [0-9a-f]{64}"
    with pytest.raises(IntegrityError, match=pattern):
        fetch(store, published, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_wrong_stored_bytes_are_quarantined_counted_and_healed_by_running_again(store, published, tmp_path, caplog):
    store.put(data_key(store, published, "part-0.parquet"), b"else" * 50)
    with pytest.raises(IntegrityError, match=r"The stored object is damaged; it is not used"):
        fetch(store, published, tmp_path / "cache")
    assert "1 artifacts were so far" in caplog.text
    assert store.get(data_key(store, published, "part-0.parquet")) == b"else" * 50  # nothing is deleted
    for read in (lambda: fetch(store, published.uri, tmp_path / "cache"), lambda: describe(store, published.uri)):
        with pytest.raises(IntegrityError, match=r"is quarantined .*part-0.parquet: expected 200 bytes"):
            read()
    assert find(store, "rollouts", IDENTITY) is None
    assert publish(store, "rollouts", IDENTITY, tmp_path / "made", {"rows": 50}) == published
    assert find(store, "rollouts", IDENTITY) == describe(store, published.uri) == published
    assert (fetch(store, published, tmp_path / "cache") / "part-0.parquet").read_bytes() == b"rows" * 50
    (record,) = quarantined(store)
    assert record["uri"] == published.uri and record["manifest"] == published.manifest


def test_only_the_artifact_that_was_read_is_quarantined(store, published, tmp_path):
    store.delete(f"{published.key}/MANIFEST.json")
    other = publish(store, "rollouts", IDENTITY, folder_with(tmp_path / "other", {"new": b"1"}), {})
    assert not quarantine(store, published, published.manifest["files"][0], "0" * 64)
    assert find(store, "rollouts", IDENTITY) == other and quarantined(store) == []


@pytest.mark.parametrize("data", [b"", FILES["part-0.parquet"][:-1], FILES["part-0.parquet"] + b"x"])
def test_a_torn_object_is_refused_and_healed_by_running_again(store, published, tmp_path, data):
    store.put(data_key(store, published, "part-0.parquet"), data)
    with pytest.raises(IntegrityError, match=f"part-0.parquet has {len(data)} bytes, the manifest says 200"):
        fetch(store, published, tmp_path / "cache")
    assert find(store, "rollouts", IDENTITY) is None
    assert publish(store, "rollouts", IDENTITY, tmp_path / "made", {"rows": 50}) == published
    assert fetch(store, published, tmp_path / "cache").is_dir()


def test_a_missing_object_is_refused_and_replaced_by_another_outcome(store, published, tmp_path):
    store.delete(data_key(store, published, "nested/config.json"))
    with pytest.raises(IntegrityError, match=r"nested/config.json is missing, the manifest says 8 bytes"):
        fetch(store, published.uri, tmp_path / "cache")
    other = publish(store, "rollouts", IDENTITY, folder_with(tmp_path / "other", {"new": b"1"}), {})
    assert find(store, "rollouts", IDENTITY) == other != published
    with pytest.raises(IntegrityError, match="is no longer what"):
        describe(store, published.uri)


def damaged_manifests(good: bytes) -> dict[str, bytes]:
    record = json.loads(good)
    return {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "flipped": good.replace(b'"seed":7', b'"seed":6'),
        "list": b"[]",
        "no files": json.dumps({**record, "files": []}).encode(),
        "future": json.dumps({**record, "schema_version": 99}).encode(),
        "deep": b"[" * 100_000,
        "not text": bytes(range(200, 256)),
    }


@pytest.mark.parametrize("damage", damaged_manifests(b'{"seed":7, "checksum": ""}'))
def test_a_damaged_manifest_is_refused_and_healed_by_running_again(store, published, tmp_path, damage):
    name = f"{published.key}/MANIFEST.json"
    store.put(name, damaged_manifests(store.get(name))[damage])
    with pytest.raises(IntegrityError):
        describe(store, published.uri)
    assert find(store, "rollouts", IDENTITY) is None
    assert publish(store, "rollouts", IDENTITY, tmp_path / "made", {"rows": 50}) == published
    assert find(store, "rollouts", IDENTITY) == published


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "", "."])
def test_file_names_cannot_leave_the_folder(published, name):
    forged = {key: value for key, value in published.manifest.items() if key != "checksum"}
    forged["files"] = [{**forged["files"][0], "name": name}]
    forged["checksum"] = digest(forged)
    with pytest.raises(IntegrityError, match="tries to leave its folder"):
        parse_manifest(canonical_json(forged).encode(), "here")


def test_links_are_not_published(store, tmp_path):
    folder = folder_with(tmp_path / "made", FILES)
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(IntegrityError, match="link or special file"):
        publish(store, "rollouts", IDENTITY, folder, {})


@pytest.mark.parametrize("damage", ["flip", "cut", "absent", "extra", "link"])
def test_a_damaged_cache_copy_is_downloaded_again(store, published, tmp_path, damage):
    cache = tmp_path / "cache"
    file = fetch(store, published, cache) / "part-0.parquet"
    if damage == "flip":
        file.write_bytes(b"x" + file.read_bytes()[1:])
    elif damage == "cut":
        os.truncate(file, 5)
    elif damage == "extra":
        (file.parent / "pytorch_model.bin").write_bytes(b"pickle")
    else:
        file.unlink()
        if damage == "link":
            file.symlink_to("/etc/passwd")
    folder = fetch(store, published, cache)
    assert file.read_bytes() == FILES["part-0.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == ["nested", "part-0.parquet"]
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_a_published_copy_in_the_cache_needs_no_store(store, tmp_path):
    cache = tmp_path / "cache"
    artifact = publish(store, "rollouts", IDENTITY, folder_with(tmp_path / "made", FILES), {}, cache=cache)
    assert discard(store, artifact.key) > 208 and store.list("") == []
    assert (fetch(store, artifact, cache) / "part-0.parquet").read_bytes() == FILES["part-0.parquet"]
    assert find(store, "rollouts", IDENTITY) is None


def test_unchanged_copies_are_read_once_and_changed_ones_again(store, tmp_path, monkeypatch):
    cache, read = tmp_path / "cache", []
    made = folder_with(cache / ".work-1", FILES)
    monkeypatch.setattr("tasks.storage.cache.file_digest", lambda path: read.append(path.name) or file_digest(path))
    artifact = publish(store, "rollouts", IDENTITY, made, {}, cache=cache)
    shutil.rmtree(made)
    file = fetch(store, artifact, cache) / "part-0.parquet"
    assert read == [] and file.read_bytes() == FILES["part-0.parquet"]
    file.write_bytes(b"else" * 50)  # same length
    assert (fetch(store, artifact, cache) / "part-0.parquet").read_bytes() == FILES["part-0.parquet"]
    assert read == ["part-0.parquet"]  # the files that come in its place are verified while they are downloaded
    fetch(store, artifact, cache)
    fetch(store, artifact, cache)
    assert sorted(read) == sorted(["part-0.parquet", *(Path(name).name for name in FILES)])


def test_the_cache_keeps_what_was_used_last(store, tmp_path):
    cache, folders = tmp_path / "cache", []
    for number in range(3):
        made = folder_with(tmp_path / str(number), {"data": b"%d" % number * 100})
        folders.append(fetch(store, publish(store, "x", {"n": number}, made, {}), cache))
        os.utime(folders[-1], (time.time() - 1000 + number,) * 2)
    for name in (".staged-dead", ".work-alive", "downloads"):
        (cache / name).mkdir()
        os.utime(cache / name, (0, 0))
    (cache / ".work-alive" / "checkpoint").write_bytes(b"x" * 1000)
    fetch(store, describe(store, store.uri(artifact_key("x", {"n": 0}))), cache)
    kept = [cache / ".work-alive", cache / "downloads"]
    assert prune_cache(cache, 250) == 100
    assert sorted(cache.iterdir()) == sorted([folders[0], folders[2], *kept])
    assert prune_cache(cache, 0) == 100 and sorted(cache.iterdir()) == sorted([folders[0], *kept])
    assert prune_cache(cache, 0, idle_s=0) == 100 and prune_cache(tmp_path / "absent", 0) == 0


def test_temporary_folders_of_a_killed_process_go_at_once_and_those_of_a_living_one_stay(tmp_path):
    program = "from tasks.storage.process_mark import process_tag; print(process_tag())"
    dead = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    elsewhere = f"00000000{dead[8:]}"
    for tag in (dead, process_tag(), elsewhere, ""):
        for prefix in (".work-", ".staged-", ".trash-"):
            (tmp_path / f"{prefix}{tag}x").mkdir()
    assert prune_cache(tmp_path, 0) == 0
    kept = [f"{prefix}{tag}x" for tag in (process_tag(), elsewhere, "") for prefix in (".work-", ".staged-", ".trash-")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_the_cache_is_pruned_beside_a_process_whose_folders_come_and_go(tmp_path):
    cache, ended = tmp_path / "cache", threading.Event()

    def work() -> None:
        while not ended.is_set():
            folder = folder_with(cache / ".work-busy", {f"{n}/data": b"x" for n in range(5)})
            folder.rename(cache / ("ab" * 16))
            shutil.rmtree(cache / ("ab" * 16), ignore_errors=True)

    cache.mkdir()
    (worker := threading.Thread(target=work)).start()
    try:
        for _ in range(100):
            assert prune_cache(cache, 1 << 30) == 0
    finally:
        ended.set()
        worker.join()
