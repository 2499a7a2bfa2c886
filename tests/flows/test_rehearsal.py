"""pytest tests/flows/test_rehearsal.py — a campaign that is held to what its initial policy says elsewhere."""

import json

import pytest

from flows.gc import gc
from flows.iterate import iterate
from flows.study import study
from opsd_core.errors import DataError
from opsd_core.records.rollouts import read_rollouts
from tasks.context import lineage, local, store, tracker
from tasks.storage.artifacts import describe

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Sums of two digits as unlabelled questions."""
    file = tmp_path_factory.mktemp("prompts") / "sums.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n // 10}+{n % 10}="}) + "\n" for n in range(100)))
    return file


def settings(tiny_model, prompts, template=None, **rehearsal):
    """A quarter of every step rehearsed."""
    source = {"source": str(prompts), "columns": {"answer": ""}}
    return {
        "model": {"source": str(tiny_model)},
        "optimizer": {"batch_size": 16},
        "execution": {"checkpoint_every": 2},
        "evaluation": {"num_items": 40},
        "rehearsal": {"share": 0.25, "num_prompts": 30, "data": [source], "prompts": template or {}} | rehearsal,
    }


def campaign(name, tiny_model, prompts, template=None, **rehearsal):
    """Two short iterations."""
    small = settings(tiny_model, prompts, template, **rehearsal)
    iterate(recipe="tiny", name=name, iterations=2, num_prompts=48, num_steps=4, overrides=small)
    return [entry for entry in tracker().versions(name) if entry.tags["opsd.role"] == "candidate"]


def test_rehearsal_is_answered_once_kept_with_its_versions_and_named_by_them(stack, tiny_model, prompts):
    first, second = campaign("held", tiny_model, prompts)
    assert lineage(first.tags)["rehearsal"] == lineage(second.tags)["rehearsal"]
    rehearsal = describe(store(), lineage(first.tags)["rehearsal"])
    rollouts = read_rollouts(local(rehearsal.uri) / "rollouts.parquet")
    assert len({r.example_id for r in rollouts}) == len(rollouts) == 30
    assert describe(store(), second.tags["opsd.state_uri"]).identity["rehearsal"] == rehearsal.uri.rsplit("/", 1)[-1]
    steps = [
        json.loads(line) for line in (local(second.tags["opsd.state_uri"]) / "steps.jsonl").read_text().splitlines()
    ]
    assert len(steps) == 4 and all(0 < step["anchor/rehearsal_kl"] < 1 for step in steps)
    gc(dry_run=False, min_age_hours=0)
    assert describe(store(), rehearsal.uri).digest == rehearsal.digest
    before = [entry.tags["opsd.model_digest"] for entry in (first, second)]
    (other, _) = campaign("other", tiny_model, prompts, coefficient=3.0)
    assert lineage(other.tags)["rehearsal"] == rehearsal.uri and other.tags["opsd.model_digest"] not in before


def test_a_tighter_budget_is_another_rehearsal(stack, tiny_model, prompts):
    """What was answered under other limits is not found again: a prompt that does not fit now is not trained on."""
    roomy, _ = campaign("roomy", tiny_model, prompts, template={"overflow": "drop"})
    assert describe(store(), lineage(roomy.tags)["rehearsal"]).summary["prompts_too_long"] == 0
    with pytest.raises(DataError, match="has 0 prompts in its training split"):
        campaign("tight", tiny_model, prompts, template={"overflow": "drop", "max_prompt_length": 2})


def test_too_few_prompts_are_said_before_anything_is_trained(stack, tiny_model, prompts):
    with pytest.raises(DataError, match=r"rehearsal.data\[0\].source=.* are its part of rehearsal.num_prompts=500"):
        campaign("short", tiny_model, prompts, num_prompts=500)
    assert [entry.tags["opsd.role"] for entry in tracker().versions("short")] == ["initial"]


def test_a_study_counts_what_was_sampled_for_a_rehearsal(stack, tiny_model, prompts):
    small = settings(tiny_model, prompts) | {"iterations": 1, "rollout": {"num_prompts": 48}}
    small["optimizer"]["num_steps"] = 4
    few = {"arms": ["base", "opsd"], "seeds": [0], "rates": {}, "sets": [], "test_items": 20, "test_samples": 0}
    study(recipe="tiny", name="held-study", overrides=small, **few)
    found = [describe(store(), store().uri(i.key.rpartition("/")[0])) for i in store().list("study-arms/")]
    (arm,) = [a for a in found if a.identity["config"]["rehearsal"]["share"] and "costs" in a.summary][:1]
    (point,) = json.loads((local(arm.uri) / "training.json").read_text())["checkpoints"]
    *shards, rehearsed = (describe(store(), ref["uri"]).summary for ref in (*point["shards"], point["rehearsal"]))
    assert rehearsed["num_rollouts"] == 30
    assert arm.summary["costs"]["generated_tokens"] == sum(s["num_tokens"] for s in shards) + rehearsed["num_tokens"]
