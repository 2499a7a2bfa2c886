"""pytest tests/flows/engines/test_engines.py — a campaign whose rollouts another engine samples."""

import json

import psutil
import pytest

from flows.iterate import iterate
from tasks.context import lineage, local, store, tracker
from tasks.storage.artifacts import describe
from tests.core.rollout.engines.installed import marks


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", [pytest.param("vllm", marks=marks("vllm"))])
def test_a_campaign_with_an_engine_of_its_own_learns_from_its_completions(engine, stack, tiny_model):
    """Two iterations: the second policy is another process. Every number that is logged is in the run."""
    overrides = {
        "model": {"source": str(tiny_model)},
        "execution": {"engine": engine, "num_shards": 2},
        "token_weights": {"importance_correction": True},
        "evaluation": {"num_items": 40},
    }
    name = f"by-{engine}"
    iterate(recipe="tiny", name=name, iterations=2, num_prompts=48, num_steps=4, overrides=overrides)
    versions = [entry for entry in tracker().versions(name) if entry.tags["opsd.role"] == "candidate"]
    assert len(versions) == 2
    for version in versions:
        summaries = [describe(store(), uri).summary for uri in lineage(version.tags)["rollouts"]]
        assert [summary["engine"]["name"] for summary in summaries] == [engine, engine]
        assert all(summary["recorded_error"] < 5e-3 for summary in summaries)
        steps = (local(version.tags["opsd.state_uri"]) / "steps.jsonl").read_text().splitlines()
        effective = [json.loads(step)["rollout_corr/rollout_is_eff_sample_size"] for step in steps]
        assert 0.99 < effective[0] < 1.0001, f"before the first update only the engines differ: {effective}"
        assert len(effective) == 4 and min(effective) > 0
    assert not [process for process in psutil.Process().children(recursive=True) if "vllm" in " ".join(process.cmdline())]
