"""pytest tests/flows/test_references.py — campaigns without a teacher, and with reference completions among the samples."""

import json

import pytest

from flows.iterate import iterate
from opsd_core.records.grades import read_grades
from opsd_core.records.rollouts import read_rollouts
from tasks.context import lineage, local, store, tracker
from tasks.storage.artifacts import describe

pytestmark = pytest.mark.timeout(900)

SMALL = {
    "iterations": 1,
    "optimizer": {"num_steps": 2, "batch_size": 8},
    "execution": {"checkpoint_every": 2},
    "evaluation": {"num_items": 20},
}


def run(name, overrides):
    iterate(recipe="tiny", name=name, num_prompts=48, num_steps=2, overrides=SMALL | overrides)
    tags = tracker().aliased(name, "candidate").tags
    shards = [read_rollouts(local(uri) / "rollouts.parquet") for uri in lineage(tags)["rollouts"]]
    grades = read_grades(local(lineage(tags)["grades"]) / "grades.parquet")
    return tags, sorted((r for shard in shards for r in shard), key=lambda r: r.key), grades


def test_supervised_fine_tuning_asks_no_teacher_and_trains_on_what_the_grader_accepts(stack):
    sft = {"distillation": {"divergence": "cross_entropy"}, "rollout": {"on_policy_fraction": 0.0}}
    tags, rollouts, grades = run("sft", sft)
    assert {r.source for r in rollouts} == {"reference"} and len(rollouts) == 48
    assert lineage(tags)["targets"] == [] and lineage(tags)["teacher_digest"] == ""
    assert all(grade.keep and grade.correct is None for grade in grades)
    counts = describe(store(), lineage(tags)["grades"]).summary["counts"]
    assert counts["num_references"] == 48 and counts["metrics"] == {
        "references/accuracy": 1.0,
        "self_distillation/empty_target_batch": 0.0,
    }
    state = local(tags["opsd.state_uri"])
    steps = [json.loads(line) for line in (state / "steps.jsonl").read_text().splitlines()]
    assert all(step["distillation/loss"] == pytest.approx(step["nll/mean"], abs=1e-6) for step in steps)
    assert json.loads((state / "probes.json").read_text()).keys() == {"alignment/mean_abs_diff", "alignment/max_abs_diff"}


@pytest.mark.slow
def test_a_mixture_stays_as_it_was_cut_when_the_number_of_shards_changes_and_a_teacher_scores_both_kinds(stack):
    half = {"rollout": {"on_policy_fraction": 0.5}}
    first, two, grades = run("half-two", half)
    tags, five, again = run("half-five", {"rollout": {"on_policy_fraction": 0.5}, "execution": {"num_shards": 5}})
    assert lineage(tags)["rollouts"] == lineage(first)["rollouts"] and len(two) == len(five)
    assert {r.source for r in two} == {"policy", "reference"}
    assert {g.key for g in grades} == {r.key for r in two} and sorted(grades, key=lambda g: g.key) == sorted(
        again, key=lambda g: g.key
    )
    tokens = [describe(store(), uri).summary["num_tokens"] for uri in lineage(tags)["targets"]]
    assert sum(tokens) == sum(len(r.completion_ids) for r in five)


@pytest.mark.slow
def test_rejection_sampling_keeps_what_is_right_and_the_schedule_reaches_the_policy(stack):
    schedules = {"rollout.on_policy_fraction": [0.0, 0.9]}
    overrides = {"distillation": {"divergence": "cross_entropy"}, "filter": {"route": "correct_only"}, "iterations": 2}
    _, rollouts, grades = run("rft", overrides | {"curriculum": {"schedules": schedules}})
    source = {r.key: r.source for r in rollouts}
    assert list(source.values()).count("policy") > 30
    for grade in grades:
        assert grade.keep == (source[grade.key] == "reference" or grade.correct)
