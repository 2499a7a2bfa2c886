"""pytest tests/tasks/runtime/test_folders.py — odd folders and addresses in variables are used, or refused by the variable."""

import errno
import os
from pathlib import Path

import pytest

from infra.state import open_state, state_root
from opsd_core.errors import ConfigError, OpsdError, ServiceError
from tasks.runtime.folders import local_disk, make_folder, named_folder
from tasks.runtime.settings import load_settings
from tasks.storage.artifacts import fetch, publish
from tasks.storage.s3 import open_store
from tasks.tracking.spool import Spool

USED = ("spaces in it", "a'b\"c", "a*b[c]", "$HOME", "ünïcödé", "a" * 200, "-rf", "a;b", "deep/" * 20)
REFUSED = {
    "file": "is there and is no folder",
    "pipe": "is there and is no folder",
    "link to a file": "is there and is no folder",
    "loop": "cannot name a folder",
    "file/below": "a file is where a folder should be",
    "line\nbreak": "cannot name a folder: .*no line breaks",
    "tab\t": "cannot name a folder",
    "end ": "no space at its ends",
    "\udcff\udcfe": "bytes of UTF-8",
    "b" * 300: "too long",
    "c/" * 2000: "at most 1,024 bytes",
}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a file").symlink_to(tmp_path / "file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


def work(environ, source):
    """What a campaign does with its folders, without its servers."""
    settings = load_settings(dict(environ))
    store = open_store(settings.store, settings)
    make_folder(settings.cache)
    stored = publish(store, "models", {"x": 1}, source, {}, cache=settings.cache)
    assert (fetch(store, stored, settings.cache) / "a").read_text() == "1"
    Spool(settings.state / "spool").append({"op": "x"})
    open_state(settings.state, home=settings.home)
    return settings


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_text("1")
    return tmp_path / "source"


def variables(place, name, text):
    environ = {"OPSD_HOME": str(place), "OPSD_STATE": str(place / "state"), "OPSD_STORE": f"{place}/store"}
    return environ | {name: text}


@pytest.mark.parametrize("text", USED)
@pytest.mark.parametrize("name", ["OPSD_STATE", "OPSD_CACHE", "OPSD_STORE"])
def test_an_odd_folder_is_used_as_it_is(place, source, name, text):
    settings = work(variables(place, name, str(place / text)), source)
    assert {"OPSD_STATE": settings.state, "OPSD_CACHE": settings.cache}.get(name, place / text) == place / text


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize("name", ["OPSD_HOME", "OPSD_STATE", "OPSD_CACHE", "OPSD_STORE"])
def test_a_text_that_can_be_no_folder_is_refused_by_its_variable(place, source, name, text):
    with pytest.raises(OpsdError, match=REFUSED[text]) as caught:
        work(variables(place, name, f"{place}/{text}"), source)
    assert name in str(caught.value) and len(str(caught.value)) < 700
    assert str(caught.value).encode(errors="strict").isascii()


@pytest.mark.parametrize("name", ["OPSD_STATE", "OPSD_CACHE"])
def test_relative_folders_begin_where_the_process_is_and_tildes_are_filled_in(place, name, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    for text, meant in (("a/b", place / "a" / "b"), ("~/c", place / "c"), (".", place)):
        settings = load_settings(variables(place, name, text))
        assert {"OPSD_STATE": settings.state, "OPSD_CACHE": settings.cache}[name] == meant
    with pytest.raises(ConfigError, match=f"{name}='~nobody-of-this-name/x' cannot name a folder"):
        load_settings(variables(place, name, "~nobody-of-this-name/x"))
    with pytest.raises(ConfigError, match=f"{name}='s3://a/b' is an address"):
        load_settings(variables(place, name, "s3://a/b"))


def test_the_state_folder_of_the_servers_follows_the_same_rules(place, monkeypatch):
    for text in ("file", "loop", "line\nbreak", "b" * 300):
        monkeypatch.setenv("OPSD_STATE", f"{place}/{text}")
        with pytest.raises(ConfigError, match="OPSD_STATE"):
            state_root()
    monkeypatch.setenv("OPSD_STATE", "/proc/none")
    with pytest.raises(ServiceError, match=r"/proc/none cannot be written.*OPSD_STATE"):
        open_state(state_root())


def test_a_folder_where_none_can_be_made_is_refused(place):
    for path in (Path("/proc/none/x"), place / "file" / "x", place / "file", Path("/dev/null/x")):
        with pytest.raises(ServiceError, match=str(path)):
            make_folder(path)
    (place / "absent link").symlink_to(place / "absent")
    make_folder(named_folder("X", str(place / "absent link")))
    assert (place / "absent").is_dir()


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "ELOOP", "ENAMETOOLONG", "EEXIST"])
def test_what_a_disk_refuses_is_in_words(place, code):
    with pytest.raises(ServiceError, match=r"Cannot write .*OPSD_CACHE"), local_disk(place):
        raise OSError(getattr(errno, code), "as the system says it")


ADDRESSES = ("http://[::1", "http://host:port", "http://host:99999999", "http://a\nb", "http://\udcff", "http://[v1.x]:/")


@pytest.mark.parametrize("text", ADDRESSES)
@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "PREFECT_API_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_an_address_that_is_none_is_refused_by_its_variable(place, name, text):
    try:
        load_settings(variables(place, name, text))
    except ConfigError as error:
        assert name in str(error)
    else:
        assert text == "http://[v1.x]:/"


@pytest.mark.parametrize("text", ["s3://[", "s3://", "ftp://x/y", "s3://a?b", "file://host/x", "s3:/x", "opsd", "file://"])
def test_a_store_that_is_none_is_refused(place, text):
    with pytest.raises(ConfigError, match="OPSD_STORE"):
        open_store(settings=load_settings(variables(place, "OPSD_STORE", text)))
