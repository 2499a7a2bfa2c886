"""pytest tests/flows/test_folder_store.py — a store that is a folder: a whole campaign, its version loaded and promoted."""

import mlflow
import pytest

from flows.iterate import iterate
from flows.promote import promote
from opsd_core.errors import IntegrityError
from tasks import context
from tasks.context import local, store, tracker
from tasks.sources import model_address, stored_model
from tasks.storage.files import FileStore

pytestmark = pytest.mark.timeout(900)
SMALL = {
    "data": {"size": 400, "validation_fraction": 0.3},
    "optimizer": {"batch_size": 8},
    "execution": {"checkpoint_every": 2},
    "evaluation": {"num_items": 20},
}


@pytest.fixture
def folder(stack, monkeypatch, tmp_path):
    """The session's Prefect and MLflow with a store in a folder, named by a path with a space."""
    monkeypatch.setenv("OPSD_STORE", str(tmp_path / "my store"))
    for cached in (context.settings, context.store):
        cached.cache_clear()
    yield tmp_path / "my store"
    monkeypatch.undo()
    for cached in (context.settings, context.store):
        cached.cache_clear()


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow's own classes
def test_a_campaign_finishes_in_a_folder(folder):
    settings = {"recipe": "tiny", "name": "in-a-folder", "iterations": 1, "num_prompts": 32, "num_steps": 2}
    text = iterate(**settings, overrides=SMALL)
    opened = store()
    assert isinstance(opened, FileStore) and opened.root == folder.as_uri()
    made = tracker().aliased("in-a-folder", "candidate")
    assert "version 2" in text and made.tags["opsd.model_uri"].startswith(opened.root + "/models/")
    assert (local(made.tags["opsd.model_uri"]) / "model.safetensors").is_file() and list(folder.glob("states/*/MANIFEST.json"))

    assert iterate(**settings, overrides=SMALL).splitlines()[0] == text.splitlines()[0]
    assert len(tracker().versions("in-a-folder")) == 2

    answers = mlflow.pyfunc.load_model("models:/in-a-folder@candidate").predict(["1+1="])
    assert len(answers) == 1
    address = model_address("models:/in-a-folder@candidate", "model.source")
    assert address == made.tags["opsd.model_uri"]
    assert stored_model(address, "model.source").digest == made.tags["opsd.model_digest"]

    weights = folder / address.removeprefix(opened.root + "/") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"version 2 of in-a-folder cannot be champion, .*model\.safetensors"):
        promote(name="in-a-folder", reason="reviewed")
    assert iterate(**settings, overrides=SMALL).splitlines()[0] == text.splitlines()[0]
    promote(name="in-a-folder", reason="whole again")
    assert tracker().version_by_alias("in-a-folder", "champion") == 2
