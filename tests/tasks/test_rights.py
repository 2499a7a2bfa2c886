"""pytest tests/tasks/test_rights.py — a key that may not do all is refused at the start, by setting and missing right."""

import json
import os
import subprocess
import time

import pytest
from prefect import flow
from prefect.states import Failed

from infra.services import describe
from infra.state import open_state
from opsd_core.config import resolve
from opsd_core.errors import OpsdError, RefusedError
from tasks.context import renew
from tasks.runtime.retries import transient
from tasks.runtime.settings import load_settings
from tasks.sources import download_folder
from tasks.stages.prepare import preflight
from tasks.storage.s3 import open_store

WITHIN_S = 20.0
"""Far below the 90 s for which an outage is waited for."""
OWN = ["Read:opsd", "Write:opsd", "List:opsd"]
KEYS = {
    "all": [*OWN, "Read:theirs", "List:theirs"],
    "no-write": ["Read:opsd", "List:opsd"],
    "no-list": ["Read:opsd", "Write:opsd"],
    "no-read": ["Write:opsd", "List:opsd"],
    "nothing": ["Read:elsewhere"],
    "own-only": OWN,
    "names-only": [*OWN, "List:theirs"],
    "objects-only": [*OWN, "Read:theirs"],
}
"""Name -> rights, as the server writes them; it has none for deleting alone."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_model):
    """A real S3 server that knows these keys; its bucket `theirs` holds data and a model."""
    folder = tmp_path_factory.mktemp("rights")
    state = open_state(folder / "state")
    service = describe("s3", state, {name: os.environ[name] for name in ("PATH", "HOME")})
    actions = {"admin": ["Admin", "Read", "Write", "List", "Tagging"], **KEYS}
    credentials = {name: (f"key-{name}", f"secret-of-{name}") for name in KEYS} | {"admin": (state.access_key, state.secret_key)}
    people = [
        {"name": name, "actions": actions[name], "credentials": [{"accessKey": key, "secretKey": secret}]}
        for name, (key, secret) in credentials.items()
    ]
    (folder / "identities.json").write_text(json.dumps({"identities": people}))
    service.cwd.mkdir(parents=True, exist_ok=True)
    command = [*service.command, f"-s3.config={folder / 'identities.json'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=service.environ, cwd=service.cwd, stdout=log, stderr=log)
        try:
            while not service.is_ready():
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                time.sleep(0.2)
            theirs = open_store("s3://theirs", load_settings(dict(service.environ)))
            theirs.ensure_bucket()
            theirs.put("rows.jsonl", "".join(f'{{"question": "{a}+1=", "answer": "{a + 1}"}}\n' for a in range(40)).encode())
            for path in tiny_model.iterdir():
                theirs.put(f"model/{path.name}", path)
            yield state.urls["s3"]
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def use(server, stack, monkeypatch, tmp_path):
    """Work with this server under a key, as a campaign's process does."""

    def using(key, root="s3://opsd/mine"):
        monkeypatch.setenv("OPSD_STORE", root)
        monkeypatch.setenv("OPSD_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"key-{key}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"secret-of-{key}")
        renew()

    yield using
    monkeypatch.undo()
    renew()


@flow(name="opsd-test-rights")
def start(overrides):
    preflight(resolve("tiny", overrides))


def refused(overrides, *words):
    """The start of a campaign is refused within seconds by an error that says all of this."""
    began = time.monotonic()
    with pytest.raises(OpsdError) as caught:
        start(overrides)
    assert time.monotonic() - began < WITHIN_S
    assert not (said := [word for word in words if word not in str(caught.value)]), f"{said} not in {caught.value}"
    assert "secret-of" not in str(caught.value)


STORES = {
    "no-write": ["may not write objects (s3:PutObject) in bucket 'opsd'"],
    "no-list": ["may not list objects (s3:ListBucket) in bucket 'opsd'"],
    "no-read": ["may not read objects (s3:GetObject) in bucket 'opsd'"],
    "nothing": ["may not write objects"],
    "nobody": ["refuses the credentials"],
}


@pytest.mark.parametrize("key", STORES)
def test_a_store_that_a_key_may_not_use_is_refused_by_the_missing_right(use, key):
    use(key, "s3://opsd" if key == "no-list" else "s3://opsd/mine")
    refused({}, *STORES[key], "AWS_ACCESS_KEY_ID", *(["OPSD_STORE"] if key != "nobody" else []))


def test_a_bucket_that_is_not_there_and_may_not_be_made_is_named(use):
    use("all", "s3://absent")
    refused({}, "'absent'", "OPSD_STORE", "AWS_ACCESS_KEY_ID")


SOURCES = {
    "data.source": {"data": {"source": "s3://theirs/rows.jsonl", "size": None, "validation_fraction": 0.3}},
    "model.source": {"model": {"source": "s3://theirs/model"}},
    "teacher.source": {"teacher": {"weights": "external", "source": "s3://theirs/model"}},
}


@pytest.mark.parametrize("field", SOURCES)
def test_data_and_models_that_a_key_may_not_read_are_refused_by_setting_and_right(use, field):
    use("own-only")
    right = "read objects (s3:GetObject)" if field == "data.source" else "list objects (s3:ListBucket)"
    refused(SOURCES[field], f"{field}=s3://theirs/", f"may not {right}", "AWS_ACCESS_KEY_ID")
    use("all")
    start(SOURCES[field])


def test_a_model_whose_objects_may_be_listed_and_not_read_or_read_and_not_listed_is_refused(use, tmp_path):
    use("names-only")
    refused(SOURCES["model.source"], "model.source=s3://theirs/model", "may not read objects (s3:GetObject)")
    with pytest.raises(OpsdError, match=r"teacher\.source=s3://theirs/model cannot be read: .* may not read objects"):
        download_folder("s3://theirs/model", tmp_path, "teacher.source")
    use("objects-only")
    refused(SOURCES["model.source"], "model.source=s3://theirs/model", "may not list objects (s3:ListBucket)")
    start(SOURCES["data.source"])  # one object needs no list


def test_a_right_that_is_taken_away_in_the_middle_is_no_outage(use):
    """Each of a store's calls says which right it lacks, and no stage is tried again."""
    use("nothing")
    store = open_store(settings=load_settings())
    calls = {
        "list objects": lambda: store.list("x"), "read objects": lambda: store.get("x"),
        "delete objects": lambda: store.delete("x"), "write objects": lambda: store.put_if_absent("x", b"1"),
    }  # fmt: skip
    for right, call in calls.items():
        with pytest.raises(RefusedError, match=f"may not {right}") as caught:
            call()
        assert not transient(None, None, Failed(data=caught.value))
