"""pytest tests/flows/adapters — a campaign that trains adapters stores adapters; everybody reads whole models."""

import json

import mlflow
import pytest
import torch
from safetensors.torch import load_file

from flows.gc import gc
from flows.iterate import iterate
from flows.promote import promote
from infra.cli.app import run
from opsd_core.config import resolve
from opsd_core.errors import IntegrityError
from opsd_core.models.policy import add_lora, effective_weights, load_policy
from opsd_core.records.apart import RECORD
from opsd_core.training.checkpoint import load_trainable
from tasks import loaded
from tasks.context import lineage, local, settings, store, tracker
from tasks.stages.training import candidate
from tasks.storage.artifacts import describe, discard, fetch
from tasks.storage.cache import prune_cache

pytestmark = pytest.mark.timeout(900)
NAME = "adapters"
SMALL = {
    "data": {"size": 400, "validation_fraction": 0.3},
    "optimizer": {"batch_size": 8},
    "evaluation": {"num_items": 20},
    "model": {"lora": {"rank": 4}},
}


def campaign(name, source, iterations=2):
    overrides = SMALL | {"model": {"source": str(source), "lora": {"rank": 4}}}
    return iterate(recipe="tiny", name=name, iterations=iterations, num_prompts=32, num_steps=3, overrides=overrides)


@pytest.fixture(scope="module")
def versions(stack, tiny_model):
    """Two iterations: the second trains the first one's adapters further."""
    campaign(NAME, tiny_model)
    return tracker().versions(NAME)


def adapter_of(version):
    return fetch(store(), version.tags["opsd.model_uri"], settings().cache)


def forget_local_copies():
    loaded.release()
    prune_cache(settings().cache, 0, idle_s=-1)


def test_an_iteration_stores_its_adapter_and_the_version_says_on_which_base(versions):
    first, *candidates = versions
    whole = describe(store(), first.tags["opsd.model_uri"])
    for version in candidates:
        stored = describe(store(), version.tags["opsd.model_uri"])
        weights = next(file for file in stored.manifest["files"] if file["name"] == "adapter_model.safetensors")
        assert stored.num_bytes < weights["size"] + 8_000 < whole.num_bytes / 20
        assert version.tags["opsd.base_uri"] == whole.uri and version.tags["opsd.base_digest"] == whole.digest
        assert version.tags["opsd.adapter"] == f"rank 4, alpha 128, {weights['size']:,} bytes"
        assert f"Stored as an adapter ({version.tags['opsd.adapter']}) of the base {whole.digest[:16]}." in version.description
        assert lineage(version.tags)["base_digest"] == whole.digest
    assert not (adapter_of(first) / RECORD).exists()


def test_what_samples_is_what_was_trained_to_the_bit_and_the_second_iteration_goes_on_from_the_first(versions):
    config = resolve("tiny", SMALL, {})
    first, *candidates = versions
    trained = []
    for version in candidates:
        initial = load_policy(local(first.tags["opsd.model_uri"]), config.model, torch.float32)
        student = add_lora(initial, config.model.lora, seed=0)
        load_trainable(local(version.tags["opsd.state_uri"]), student)
        sampled = load_file(local(version.tags["opsd.model_uri"]) / "model.safetensors")
        expected = {name: value for name, value in effective_weights(student.model, exact=True) if name in sampled}
        assert all(torch.equal(value, sampled[name]) for name, value in expected.items()) and len(expected) == len(sampled)
        kept = load_file(adapter_of(version) / "adapter_model.safetensors")
        state = load_file(local(version.tags["opsd.state_uri"]) / "trainable.safetensors")
        factors = {name.replace(".default", ""): value for name, value in state.items()}
        assert factors.keys() == kept.keys() and all(torch.equal(factors[name], value) for name, value in kept.items())
        trained.append(kept)
    states = [describe(store(), version.tags["opsd.state_uri"]) for version in candidates]
    assert states[1].identity["state"] == states[0].uri.rsplit("/", 1)[-1] and states[0].identity["state"] is None
    assert any(not torch.equal(value, trained[1][name]) for name, value in trained[0].items())


def test_another_machine_puts_the_same_bytes_together(versions):
    before = {f.name: f.read_bytes() for f in local(versions[-1].tags["opsd.model_uri"]).iterdir()}
    forget_local_copies()
    assert {f.name: f.read_bytes() for f in local(versions[-1].tags["opsd.model_uri"]).iterdir()} == before


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow's own classes
def test_export_mlflow_and_a_promotion_get_the_whole_model(versions, tmp_path, capsys):
    forget_local_copies()
    assert run(["export", f"{NAME}/2", "--to", str(tmp_path / "two"), "--adapter"]) == 0
    assert "verified" in capsys.readouterr().out
    exported = load_policy(tmp_path / "two", resolve("tiny", SMALL, {}).model)
    assert (tmp_path / "two" / "adapter" / "adapter_model.safetensors").is_file()
    weights = load_file(local(versions[1].tags["opsd.model_uri"]) / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in exported.model.state_dict().items() if name in weights)
    assert len(mlflow.pyfunc.load_model(f"models:/{NAME}/2").predict(["1+1="])) == 1
    key = f"{store().key_of(versions[1].tags['opsd.base_uri'])}/model.safetensors"
    whole = store().get(key)
    store().put(key, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=rf"version 3 of {NAME} cannot be champion, .*model\.safetensors"):
        promote(name=NAME, version=3, reason="reviewed")


def test_an_adapter_that_was_lost_is_made_again_from_the_trainer_state_with_the_same_bytes(versions, tiny_model):
    stored = describe(store(), versions[1].tags["opsd.model_uri"])
    discard(store(), stored.key)
    forget_local_copies()
    campaign(NAME, tiny_model)  # mends the base too
    assert describe(store(), versions[1].tags["opsd.model_uri"]).digest == stored.digest
    assert len(tracker().versions(NAME)) == len(versions)


def test_a_promoted_adapter_is_what_the_next_campaign_trains_adapters_on_and_gc_keeps_its_base(versions, tiny_model):
    promote(name=NAME, version=3, reason="whole again")
    campaign("adapters-further", f"models:/{NAME}@champion", iterations=1)
    further = tracker().versions("adapters-further")
    assert further[1].tags["opsd.base_uri"] == versions[2].tags["opsd.model_uri"]
    gc(dry_run=False, keep_candidates=1, min_age_hours=0.0)
    forget_local_copies()
    for version in (further[0], tracker().get_version(NAME, 3)):
        assert (local(version.tags["opsd.model_uri"]) / "model.safetensors").is_file()
    assert len(mlflow.pyfunc.load_model("models:/adapters-further@champion").predict(["1+1="])) == 1


def test_a_campaign_whose_iterations_were_stored_whole_goes_on(stack, tiny_model, monkeypatch):
    monkeypatch.setattr(candidate, "can_be_apart", lambda *_: False)
    before = campaign("stored-whole", tiny_model)
    monkeypatch.undo()
    made = tracker().versions("stored-whole")
    assert all("opsd.base_uri" not in version.tags for version in made)
    assert campaign("stored-whole", tiny_model).splitlines()[:2] == before.splitlines()[:2]
    assert [v.tags["opsd.model_digest"] for v in tracker().versions("stored-whole")] == [
        v.tags["opsd.model_digest"] for v in made
    ]
    assert json.loads((local(made[2].tags["opsd.model_uri"]) / "config.json").read_text())["architectures"]
