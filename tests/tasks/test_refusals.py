"""pytest tests/tasks/test_refusals.py — what a user mistypes is refused at once by its setting, on real servers."""

import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mlflow import MlflowClient
from prefect.states import Failed

from opsd_core.config import resolve
from opsd_core.errors import ConfigError, DataError, IntegrityError, ModelError, OpsdError, RefusedError, ServiceError
from tasks.context import settings as own_settings
from tasks.context import store as own_store
from tasks.refs import Ref
from tasks.runtime.retries import STAGE, transient
from tasks.sources import download_file, download_folder, model_address, stored_model
from tasks.stages.replay import ReplaySource, replay_config
from tasks.storage.artifacts import publish
from tasks.storage.s3 import open_store
from tasks.tracking import Tracker

AT_ONCE_S = 5.0


@pytest.fixture
def bucket(stack):
    """A folder of this session's bucket with one file."""
    store = open_store("s3://opsd", own_settings())
    store.ensure_bucket()
    name = uuid.uuid4().hex
    store.put(f"data/{name}.jsonl", b"{}\n")
    return name


@pytest.fixture
def tracker(settings):
    return Tracker(settings)


@pytest.fixture
def model(tracker):
    """A registered model with one version, of a folder that lies elsewhere."""
    name = f"refusals-{uuid.uuid4().hex[:8]}"
    tracker.ensure_model(name)
    run = tracker.client.create_run(tracker.client.create_experiment(name))
    tracker.client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, await_creation_for=0)
    return name


@pytest.mark.parametrize(
    "end", ["", "@", "@champion", "@bad alias", "@x'y", "@" + "a" * 300, "/2", "/0", "/-1", "/999999999", "/9999999999999", "/x"]
)
def test_a_version_that_does_not_exist_is_refused_at_once_by_its_setting(tracker, model, end):
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=r"teacher\.source=.*Correct teacher\.source") as caught:
        tracker.source_of(f"models:/{model}{end}", "teacher.source")
    assert time.monotonic() - begun < AT_ONCE_S
    assert "MlflowException" not in str(caught.value) and "RESOURCE" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent", "Absent model", "a'b", "ü", "%", "a\\b", "x" * 300])
def test_a_model_that_does_not_exist_is_refused_with_the_names_that_do(tracker, model, name):
    for end in ("@champion", "/1"):
        begun = time.monotonic()
        with pytest.raises(ConfigError, match=r"model\.source=.*there is no registered model .*\(there are \w"):
            tracker.source_of(f"models:/{name}{end}")
        assert time.monotonic() - begun < AT_ONCE_S


def test_what_there_is_instead_is_listed(tracker, model):
    MlflowClient(tracker.uri).set_registered_model_alias(model, "best", "1")
    with pytest.raises(ConfigError, match=r"has no such version or alias \(it has 1 @best\)"):
        tracker.source_of(f"models:/{model}@champion")


def test_a_version_of_another_tool_is_refused_as_such(stack, model):
    with pytest.raises(ModelError, match=rf"model\.source=models:/{model}/1 was not registered by opsd: .*mlflow-artifacts:"):
        model_address(f"models:/{model}/1", "model.source")
    assert model_address("owner/name", "model.source") == "owner/name"


@pytest.mark.parametrize(
    "uri", ["s3://absent-bucket/x/file.jsonl", "s3://opsd/data/typo.jsonl", "s3://opsd", "s3:///data/x.jsonl", "s3://",
            "s3://b?/x", "s3://Not_A_Bucket!/x.jsonl", "s3://opsd/a//b.jsonl", "s3://opsd/../x.jsonl",
            "s3://opsd/" + "k" * 2000, "s3://a b/c.jsonl"]
)  # fmt: skip
def test_a_typo_in_the_address_of_data_names_the_setting_at_once(bucket, tmp_path, uri):
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"rehearsal\.data=") as caught:
        download_file(uri, tmp_path, "rehearsal.data")
    assert time.monotonic() - begun < AT_ONCE_S
    assert "makes it again" not in str(caught.value) and "OPSD_STORE" not in str(caught.value)
    assert download_file(f"s3://opsd/data/{bucket}.jsonl", tmp_path).read_bytes() == b"{}\n"


@pytest.mark.parametrize(
    "uri", ["s3://absent-bucket/x", "s3://absent-bucket", "s3://opsd/models-typo/x/", "s3://", "s3:///x", "s3://b?/x",
            "s3://a b/c", "s3://opsd/models/0000/0000", "s3://opsd/models//x", "s3://opsd/models/../x"]
)  # fmt: skip
def test_a_typo_in_the_address_of_a_model_names_the_setting_at_once(bucket, tmp_path, uri):
    begun = time.monotonic()
    with pytest.raises(OpsdError, match=r"model\.source") as caught:
        if stored_model(uri, "model.source") is None:
            download_folder(uri, tmp_path)
    assert time.monotonic() - begun < AT_ONCE_S and not retried(caught.value)
    assert "makes it again" not in str(caught.value)


def test_a_folder_of_the_store_that_holds_no_whole_model_is_refused(bucket):
    key = f"models/{uuid.uuid4().hex}"
    own_store().put(f"{key}/data/config.json", b"{}")
    with pytest.raises(ModelError, match=rf"model\.source: there is no stored model at .*{key}.*Correct model\.source"):
        stored_model(own_store().uri(key), "model.source")


def retried(error: Exception) -> bool:
    return transient(None, None, Failed(data=error))


def test_outages_are_tried_again_and_refusals_are_not(tracker, bucket):
    assert STAGE["retry_condition_fn"] is transient
    assert retried(ServiceError("down")) and retried(TimeoutError()) and retried(ConnectionError())
    absent = (lambda: tracker.get_version("absent", 1), lambda: tracker.versions("absent"))
    for call in (*absent, lambda: tracker.set_alias("absent", "a", 1)):
        with pytest.raises(RefusedError, match="refused to") as caught:
            call()
        assert not retried(caught.value)
    for name in ("absent-bucket", "Not_A_Bucket!"):
        with pytest.raises(RefusedError) as caught:
            open_store(f"s3://{name}", own_settings()).list("")
        assert not retried(caught.value)
    assert not any(map(retried, (ConfigError("x"), DataError("x"), ModelError("x"))))


@pytest.mark.parametrize("source", ["models:/x", "s3://", "s3://bucket//x"])
def test_what_can_be_no_address_is_refused_before_a_server_is_asked(source):
    with pytest.raises(ConfigError, match=r"model\.source="):
        resolve("tiny", {"model": {"source": source}})


@pytest.mark.parametrize("overrides", [None, [], "x", {"model": {}}, {"teacher": None}, {"teacher": []}, {"filter": {"x": 1}}])
def test_a_replay_of_anything_else_is_refused_with_the_field(bucket, overrides):
    config = resolve("tiny").model_dump_json().encode()
    source = ReplaySource(name="tests", campaign="c", record=record(config), data=Ref(uri="s3://opsd/x"), iterations=[])
    with pytest.raises(ConfigError, match=r"overrides=|cannot change model|teacher: must be an object|filter\.x: unknown key"):
        replay_config(source, overrides)


@pytest.mark.parametrize("stored", [b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"model": null}', b"{}"])
def test_a_stored_configuration_that_is_none_is_refused_as_such(bucket, stored):
    source = ReplaySource(name="tests", campaign="c", record=record(stored), data=Ref(uri="s3://opsd/x"), iterations=[])
    with pytest.raises((ConfigError, IntegrityError), match=r"config\.json|the replay of tests is refused: "):
        replay_config(source, {})


def record(content: bytes) -> Ref:
    """A stored campaign's record that holds these bytes."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(content)
        made = publish(own_store(), "campaigns", {"content": content.hex()[:200], "tests": uuid.uuid4().hex}, Path(folder), {})
    return Ref(uri=made.uri)
