"""The same promises from a real S3 server and from a folder; errors that name the cause."""

import socket
import threading
from pathlib import Path

import pytest

from opsd_core.errors import ConfigError, IntegrityError, ServiceError
from tasks.runtime.folders import local_disk
from tasks.runtime.settings import Settings
from tasks.storage.base import check_key
from tasks.storage.s3 import open_store


def test_an_object_comes_back_whole_and_is_replaced_whole(store, tmp_path):
    store.put("a/b.bin", b"first")
    store.put("a/b.bin", b"second")
    assert store.get("a/b.bin") == b"second"
    assert store.head("a/b.bin").size == 6 and store.exists("a/b.bin")
    store.put("empty", b"")
    assert store.get("empty") == b""
    store.download("a/b.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"second"
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert store.head("a/b.bin") is None and store.read("a/b.bin") is None
    with pytest.raises(IntegrityError, match="does not exist"):
        store.get("a/b.bin")
    with pytest.raises(IntegrityError, match="does not exist"):
        store.download("a/b.bin", tmp_path / "copy2")


def test_a_large_file_travels_in_parts(store, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * (160 << 10))  # 40 MiB: above the multipart threshold
    store.put("large", large)
    store.download("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_a_reader_refuses_more_bytes_than_it_asked_for(store):
    store.put("bomb", b"x" * 1000)
    assert store.read("bomb", max_bytes=1000)[0] == b"x" * 1000
    with pytest.raises(IntegrityError, match="has 1000 bytes; at most 999"):
        store.read("bomb", max_bytes=999)


def test_listing_is_complete_and_sorted(store):
    keys = ["a", "ab", "b/c", "b/c-d", "b/d/e", "bb/x"]
    for key in reversed(keys):
        store.put(f"l/{key}", b"1")
    assert [info.key for info in store.list("l/")] == [f"l/{key}" for key in keys]
    assert [info.key for info in store.list("l/b")] == ["l/b/c", "l/b/c-d", "l/b/d/e", "l/bb/x"]
    assert store.list("nothing/here") == []


def test_of_many_racing_writers_one_wins(store):
    wins, barrier = [], threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        if store.put_if_absent("race", b"%d" % number):
            wins.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1 and store.get("race") == b"%d" % wins[0]
    assert store.put_if_absent("race", store.get("race")) is False


def test_compare_and_swap_needs_the_current_tag(store):
    store.put("cas", b"one")
    _, old = store.read("cas")
    assert store.put_if_match("cas", b"two", old)
    assert not store.put_if_match("cas", b"three", old)
    assert not store.put_if_match("absent", b"x", old)
    assert store.get("cas") == b"two" and store.head("cas").etag == store.read("cas")[1] != old


@pytest.mark.parametrize(
    "key",
    ["", "/abs", "a//b", "a/../b", "..", ".", "a/./b", "a\\b", "a\nb", "a\x00b", "a/", "x" * 256, "a/" * 500 + "b"],
)
def test_keys_cannot_escape(store, key):
    with pytest.raises(ConfigError, match="cannot name a stored object"):
        store.put(key, b"")
    with pytest.raises(ConfigError):
        store.read(key)


def test_addresses_turn_into_keys_and_back(store):
    assert store.key_of(store.uri("a/b")) == "a/b" and check_key("Ünïcode name.json")
    for foreign in ("s3://other/a", store.root, store.root + "/../a", store.root + "x/a"):
        with pytest.raises(ConfigError):
            store.key_of(foreign)


def test_probe_passes_and_leaves_nothing(store):
    store.probe()
    assert store.list("") == []


@pytest.mark.parametrize(
    "root", ["", "opsd", "/folder", "s3://", "s3://b/../c", "s3://b?x", "file://host/x", "ftp://h"]
)
def test_other_roots_are_refused(settings, root):
    with pytest.raises(ConfigError):
        open_store(root or "  ", settings)


def changed(settings: Settings, **values) -> Settings:
    return Settings.model_validate({**settings.model_dump(), **values})


def test_an_unreachable_store_is_named(settings):
    with socket.socket() as held:  # bound, never listening: connections are refused
        held.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ServiceError, match=f"{endpoint} does not answer.*AWS_ENDPOINT_URL_S3"):
            open_store("s3://opsd", changed(settings, s3_endpoint=endpoint)).probe()


def test_wrong_credentials_are_named_and_not_shown(settings):
    wrong = changed(settings, s3_secret_key="planted-secret")
    with pytest.raises(ServiceError, match="refuses the credentials") as caught:
        open_store("s3://opsd", wrong).probe()
    assert "planted-secret" not in str(caught.value)


def test_an_absent_bucket_is_named(settings):
    with pytest.raises(ServiceError, match="has no bucket 'opsd-absent'"):
        open_store("s3://opsd-absent/prefix", settings).probe()


def test_a_folder_that_cannot_be_is_named(settings):
    with pytest.raises(ConfigError, match=r"OPSD_STORE='/dev/null/opsd' cannot name a folder: a file is where"):
        open_store("file:///dev/null/opsd", settings).probe()


def test_a_full_disk_is_named():
    with pytest.raises(ServiceError, match="Cannot write /dev/full: the disk is full"), local_disk(Path("/dev/full")):
        Path("/dev/full").write_bytes(b"x")
