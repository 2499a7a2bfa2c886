"""pytest tests/flows/groups/test_oasis.py — a whole campaign on the shortest right completions, and a replay."""

import re
from collections import defaultdict

import mlflow
import pytest

from flows.iterate import iterate
from flows.replay import replay
from opsd_core.records.grades import read_grades
from opsd_core.records.rollouts import read_rollouts
from opsd_core.records.targets import read_targets
from tasks.context import lineage, local, store, tracker
from tasks.storage.artifacts import describe
from tests.tasks.refilling.test_rounds import TOLD

pytestmark = pytest.mark.timeout(900)


def settings(name, tiny_model, **overrides):
    """Of the tiny model, which is told the answer and sampled hot, so that a third of its completions are right."""
    small = TOLD | {
        "model": {"source": "tiny"},
        "data": {"size": 400, "validation_fraction": 0.3},
        "rollout": {
            "num_prompts": 24, "group_size": 4, "temperature": 2.0, "top_p": 1.0, "top_k": 0,
            "refill": {"share": 1.0, "group_size": 3, "max_rounds": 2},
        },
        "optimizer": {"num_steps": 2, "batch_size": 8},
        "execution": {"checkpoint_every": 2},
        "evaluation": {"num_items": 20},
    }  # fmt: skip
    return {"recipe": "oasis", "name": name, "iterations": 1, "overrides": small | overrides}


@pytest.fixture(scope="module")
def ended(stack, tiny_model):
    """The campaign, and what it says at its end."""
    parameters = settings("oasis", tiny_model)
    return parameters, iterate(**parameters)


def known(name):
    return lineage(tracker().aliased(name, "candidate").tags)


def metrics_of(name):
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name(name).experiment_id], "tags.`opsd.iteration` != \'\'")
    return run.data.metrics


def test_of_each_prompt_the_shortest_right_completion_is_trained_on(ended):
    rows = [row for uri in known("oasis")["rollouts"] for row in read_rollouts(local(uri) / "rollouts.parquet")]
    lengths = {row.key: len(row.completion_ids) for row in rows}
    grades = read_grades(local(known("oasis")["grades"]) / "grades.parquet")
    assert {grade.key for grade in grades} == lengths.keys()
    groups = defaultdict(list)
    for grade in grades:
        groups[grade.example_id].append(grade)
    kept = 0
    for group in groups.values():
        right = [grade for grade in group if grade.correct and grade.reason != "no_context"]
        chosen = [grade for grade in group if grade.keep]
        assert len(chosen) == min(1, len(right))
        assert all(c.correct and lengths[c.key] == min(lengths[grade.key] for grade in right) for c in chosen)
        assert all(grade.keep or grade.reason for grade in group)
        kept += len(chosen)
    assert metrics_of("oasis")["rollout/kept"] == kept > 0
    found = metrics_of("oasis")
    assert found["rollout/prompts_right"] == sum(any(grade.correct for grade in group) for group in groups.values()) / len(groups)


def test_it_reports_who_was_asked_again_and_its_shards_hold_every_round(ended):
    found, shards = metrics_of("oasis"), known("oasis")["rollouts"]
    assert found["refill/prompts_first"] < found["refill/prompts_right"] <= found["refill/prompts_wanted"] == 24
    assert found["refill/completions"] > 0 and 1 <= found["refill/rounds"] <= 2
    assert found["refill/budget_ended"] == float(found["refill/prompts_right"] < 24)
    number = sum(describe(store(), uri).summary["num_rollouts"] for uri in shards)
    assert number == 24 * 4 + found["refill/completions"]
    assert all("joined" in describe(store(), uri).identity for uri in shards)


def test_triggered_again_it_makes_nothing_and_says_the_same(ended):
    (parameters, text), before = ended, {info.key for info in store().list("") if not info.key.startswith("leases/")}
    again = iterate(**parameters)
    assert again.splitlines()[0] == text.splitlines()[0]
    assert {info.key for info in store().list("") if not info.key.startswith("leases/")} == before


def test_a_replay_keeps_another_choice_of_the_same_completions_and_the_teacher_scores_no_other(ended):
    recorded = {"teacher": {"weights": "initial"}, "distillation": {"targets": "recorded"}}
    name = re.search(r"oasis-replay-\w+", replay("oasis", overrides={"filter": {"keep_per_prompt": "random"}} | recorded))[0]
    assert known(name)["rollouts"] == known("oasis")["rollouts"] and known(name)["grades"] != known("oasis")["grades"]
    grades = read_grades(local(known(name)["grades"]) / "grades.parquet")
    assert "not_drawn" in {grade.reason for grade in grades}
    assert max(sum(g.keep for g in grades if g.example_id == one.example_id) for one in grades) == 1
    scored = {target.key for uri in known(name)["targets"] for target in read_targets(local(uri) / "targets.parquet")}
    assert scored == {grade.key for grade in grades if grade.keep}
