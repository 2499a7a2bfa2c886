"""pytest tests/flows/test_replay.py — another objective on stored rollouts, then retention over both lines."""

import json

import pytest
from prefect.client.orchestration import get_client

from flows.gc import gc
from flows.iterate import iterate
from flows.replay import replay
from opsd_core.errors import ConfigError
from tasks.context import lineage, store, tracker
from tasks.storage.artifacts import describe

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def source(stack, tiny_model):
    """A campaign of two short iterations under the name `source`."""
    small = {
        "model": {"source": str(tiny_model)},
        "optimizer": {"batch_size": 16},
        "execution": {"checkpoint_every": 2},
        "evaluation": {"num_items": 40},
    }
    iterate(recipe="tiny", name="source", iterations=2, num_prompts=48, num_steps=4, overrides=small)
    return tracker().versions("source")


def _counts(kind):
    return {info.key for info in store().list(kind + "/")}


def _artifacts():
    return {info.key for info in store().list("") if not info.key.startswith("leases/")}


def test_replay_trains_a_line_of_its_own_and_generates_nothing(source):
    rollouts, champion = _counts("rollouts"), tracker().version_by_alias("source", "champion")
    text = replay("source", overrides={"distillation": {"divergence": "reverse_kl"}})
    name = text.splitlines()[0]
    assert name.startswith("source-replay-") and _counts("rollouts") == rollouts
    line = [entry for entry in tracker().versions(name) if entry.tags["opsd.role"] == "candidate"]
    before = [entry for entry in source if entry.tags["opsd.role"] == "candidate"]
    assert [lineage(entry.tags)["rollouts"] for entry in line] == [lineage(entry.tags)["rollouts"] for entry in before]
    assert not {e.tags["opsd.model_digest"] for e in line} & {e.tags["opsd.model_digest"] for e in before}
    assert all("gate.verdict" in entry.tags and entry.tags["opsd.gate"] != "promoted" for entry in line)
    assert tracker().version_by_alias("source", "champion") == champion
    assert [(e.version, e.tags) for e in tracker().versions("source")] == [(e.version, e.tags) for e in source]
    # The objective changed, the teacher did not: its targets are the stored ones.
    assert [lineage(e.tags)["targets"] for e in line] == [lineage(e.tags)["targets"] for e in before]


def test_replay_without_a_change_is_the_campaign_again(source):
    name = replay("source").splitlines()[0]
    mine = [e.tags["opsd.model_digest"] for e in tracker().versions(name)]
    assert mine == [e.tags["opsd.model_digest"] for e in source]


def test_replay_says_what_it_cannot_do(source):
    with pytest.raises(ConfigError, match=r"cannot change rollout: its rollouts are already sampled"):
        replay("source", overrides={"rollout": {"temperature": 0.5}})
    with pytest.raises(ConfigError, match=r"no stored rollouts of iterations \[7\] .* there are iterations \[0, 1\]"):
        replay("source", iterations=[0, 7])


def test_retention_is_dry_by_default_and_then_leaves_every_kept_version_whole(source):
    before = _artifacts()
    assert "to delete" in gc(keep_candidates=1, min_age_hours=0)
    assert _artifacts() == before
    gc(dry_run=False, keep_candidates=1, min_age_hours=0)
    after = _artifacts()
    assert after < before and not any(key.startswith("checkpoints/") for key in after)
    for name in tracker().model_names():
        for version in tracker().versions(name):
            # A registry may hold versions whose weights lie in another store; retention leaves both alone.
            if version.aliases and version.tags.get("opsd.model_uri", "").startswith(store().uri("models") + "/"):
                assert describe(store(), version.tags["opsd.model_uri"])
                for uri in lineage(version.tags).get("rollouts", []):
                    assert describe(store(), uri)
    with get_client(sync_client=True) as client:
        (table, *_) = [a for a in client.read_artifacts(limit=200) if a.key == "opsd-retention"]
    assert json.loads(table.data)[-1]["kind"] == "total"
