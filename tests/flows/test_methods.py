"""pytest tests/flows/test_methods.py — teachers and contexts through whole small campaigns, with and without labels."""

import json

import pytest

from flows.iterate import iterate
from opsd_core.data import addition_examples
from opsd_core.records.grades import read_grades
from opsd_core.records.targets import read_targets
from tasks.context import lineage, local, store, tracker
from tasks.storage.artifacts import describe

pytestmark = pytest.mark.timeout(900)

SMALL = {
    "iterations": 1,
    "rollout": {"num_prompts": 64},
    "optimizer": {"num_steps": 2, "batch_size": 8},
    "execution": {"checkpoint_every": 2},
    "evaluation": {"num_items": 20},
}


def run(recipe, name, *, prompts=64, **overrides):
    settings = SMALL | {"rollout": {"num_prompts": prompts}} | overrides
    text = iterate(recipe=recipe, name=name, overrides=settings)
    version = tracker().aliased(name, "candidate")
    return text, version.tags


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """Questions only."""
    path = tmp_path_factory.mktemp("data") / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": e.question}) + "\n" for e in addition_examples(600)))
    return {"source": str(path), "columns": {"answer": ""}, "grader": "exact", "size": 600}


@pytest.mark.parametrize("recipe", ["opsdc", "u_opsd"])
def test_label_free_campaigns_run_and_leave_the_promotion_to_a_person(stack, unlabelled, recipe):
    text, tags = run(recipe, f"free-{recipe}", data=unlabelled, promotion={"mode": "manual"})
    assert "accuracy unknown -> unknown" in text
    assert tags["opsd.gate"] == "refused" and "no answers" in json.dumps(tags)
    grades = read_grades(local(lineage(tags)["grades"]) / "grades.parquet")
    assert {grade.correct for grade in grades} == {None}
    assert not [name for name in describe(store(), lineage(tags)["evaluation"]).summary["metrics"] if "accuracy" in name]


def test_contexts_made_from_rollouts_say_why_a_completion_has_none(stack):
    _, tags = run("sdpo_like", "siblings", prompts=200)
    grades = read_grades(local(lineage(tags)["grades"]) / "grades.parquet")
    right = {}
    for grade in grades:
        right.setdefault(grade.example_id, []).append(bool(grade.correct))
    for grade in grades:
        others = sum(right[grade.example_id]) - bool(grade.correct)
        assert grade.keep == (others > 0) or grade.reason not in ("", "no_context")
        assert others > 0 or grade.reason


def test_peers_are_mixed_into_recorded_targets(stack):
    peers = {"weights": "peers", "peers": ["tiny", "tiny"], "mixture": "geometric", "top_p": 0.9}
    _, tags = run("tiny", "peers", teacher=peers)
    identity = describe(store(), lineage(tags)["targets"][0]).identity
    assert identity["mixture"] == ["geometric", "uniform"] and identity["transform"]["top_p"] == 0.9
    targets = read_targets(local(lineage(tags)["targets"][0]) / "targets.parquet")
    assert all((target.topk_logprobs_TK[:, 0] > -2.5).all() for target in targets)


@pytest.mark.parametrize(
    ("recipe", "weights"), [("opsd_paper_v3", "adapter_off"), ("sdft", "ema"), ("op2sd", "trust_region")]
)
def test_teachers_that_move_teach_online(stack, recipe, weights):
    _, tags = run(recipe, f"moving-{weights.replace('_', '-')}", teacher={"weights": weights})
    assert lineage(tags)["teacher_weights"] == weights and lineage(tags)["targets"] == []
    assert tags["opsd.gate"] in ("refused", "promoted")
