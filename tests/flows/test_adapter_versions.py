"""pytest tests/flows/test_adapter_versions.py — a campaign that trains adapters stores adapters, and everybody reads whole models."""


import pytest

from flows.iterate import iterate
from tasks.context import settings, store, tracker
from tasks.storage.artifacts import describe, fetch

pytestmark = pytest.mark.timeout(900)
NAME = "adapters"
SMALL = {
    "data": {"size": 400, "validation_fraction": 0.3},
    "optimizer": {"batch_size": 8},
    "evaluation": {"num_items": 20},
    "model": {"lora": {"rank": 4}},
}


@pytest.fixture(scope="module")
def versions(stack):
    """Two iterations: the second trains the first one's adapters further."""
    settings_of_it = {"recipe": "tiny", "name": NAME, "iterations": 2, "num_prompts": 32, "num_steps": 3}
    iterate(**settings_of_it, overrides=SMALL)
    return tracker().versions(NAME)


def raw(address):
    return fetch(store(), address, settings().cache)


def test_bytes(versions):
    for v in versions:
        model, state = describe(store(), v.tags["opsd.model_uri"]), v.tags.get("opsd.state_uri")
        print(v.version, model.num_bytes, describe(store(), state).num_bytes if state else None, model.digest[:12])
        for file in [*model.manifest["files"], *(describe(store(), state).manifest["files"] if state else [])]:
            print("   ", file)
