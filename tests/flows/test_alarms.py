"""pytest tests/flows/test_alarms.py — alarms that stop iterations, remedies, gates and curriculum in whole campaigns."""

import mlflow
import pytest

from flows.iterate import iterate
from opsd_core.errors import TrainingError
from opsd_core.records.examples import read_examples
from opsd_core.records.grades import read_grades
from opsd_core.selection.curriculum import read_state
from tasks.context import local, store, tracker
from tasks.storage.artifacts import describe
from tasks.storage.manifest import MANIFEST_NAME

pytestmark = pytest.mark.timeout(600)

SMALL = {
    "data": {"size": 1000},
    "rollout": {"num_prompts": 60},
    "optimizer": {"num_steps": 4, "batch_size": 16},
    "evaluation": {"num_items": 40},
}


def campaign(name, iterations, **overrides):
    values = {section: SMALL.get(section, {}) | overrides.get(section, {}) for section in SMALL | overrides}
    return iterate(recipe="tiny", name=name, iterations=iterations, overrides=values)


def runs(name):
    """MLflow runs of the campaign's iterations, in order."""
    client = mlflow.MlflowClient()
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    return sorted((r for r in found if "mlflow.parentRunId" in r.data.tags), key=lambda r: r.info.run_name)


def stored(kind):
    return {info.key.rpartition("/")[0] for info in store().list(f"{kind}/") if info.key.endswith(f"/{MANIFEST_NAME}")}


def folders(kind, before):
    """Local copies of the artifacts that were published since."""
    return [local(describe(store(), store().uri(key)).uri) for key in sorted(stored(kind) - before)]


def test_a_stopped_iteration_keeps_its_artifacts_and_the_next_one_goes_on_with_the_remedy(stack):
    """Iteration 0 samples single tokens, all cut: the alarm comes before training. Iteration 1 runs at half the rate."""
    before = stored("grades")
    text = campaign(
        "recovers",
        2,
        curriculum={"schedules": {"rollout.max_completion_length": [1, 4]}},
        alarms={"remedy": "lower_rate", "max_truncation": 0.9, "max_kl_p99": None, "max_accuracy_drop": None}
        | {"max_entropy_ratio": None, "min_entropy_ratio": None},
    )
    assert "iteration 1: version" in text and "completions/clipped_ratio=1.000 is above alarms.max_truncation=0.9" in text
    stopped, went_on = runs("recovers")
    assert (stopped.info.status, went_on.info.status) == ("FAILED", "FINISHED")
    assert stopped.data.metrics["alarms/truncation"] == 1.0 and "distillation/loss" not in stopped.data.metrics
    assert stopped.data.tags["opsd.alarms"] == "truncation"
    assert len(stored("grades") - before) == 2
    assert went_on.data.metrics["optim/learning_rate"] == pytest.approx(0.5e-3)
    tags = [version.tags for version in tracker().versions("recovers")]
    assert [t.get("opsd.iteration") for t in tags] == [None, "1"] and tags[1]["opsd.parent_version"] == "1"


def test_an_alarm_inside_training_stops_at_its_step_and_ends_the_campaign(stack):
    text = campaign("stops", 2, alarms={"remedy": "end", "max_kl_p99": 1e-6, "kl_steps": 2})
    assert "kl_p99: kl/p99 was" in text and "iteration 1" not in text
    (run,) = runs("stops")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "distillation/loss")
    assert [point.step for point in history] == [0, 1] and run.data.metrics["alarms/kl_p99"] == 1.0
    assert stored("stopped")
    assert len(tracker().versions("stops")) == 1


def test_recoveries_are_limited(stack):
    strict = {"remedy": "raise_temperature", "max_truncation": 1e-6, "max_recoveries": 1}
    text = campaign("gives-up", 5, alarms=strict, rollout=SMALL["rollout"] | {"max_completion_length": 1})
    assert text.count("is stopped by an alarm") == 2 == len(runs("gives-up"))


def test_without_a_context_for_any_completion_the_alarm_sounds_before_training_is_refused(stack):
    """Sums of three digits cut after one: no completion is right, so none has a right sibling that the teacher could see."""
    options = {
        "teacher": {"context": "sibling_success"},
        "rollout": SMALL["rollout"] | {"group_size": 2, "max_completion_length": 1},
        "alarms": {"max_truncation": None},
    }
    with pytest.raises(TrainingError, match="no rollout is left to train on"):
        campaign("no-context", 1, **options)
    (run,) = runs("no-context")
    assert run.data.metrics["alarms/empty_batch"] == 1.0


def test_a_probe_that_leaves_nothing_ends_the_campaign_by_its_alarm(stack):
    alarms = {"remedy": "end", "max_truncation": None}
    text = campaign("no-gain", 1, filter={"teacher_probe": "gain", "min_gain": 99.0}, alarms=alarms)
    assert "empty_batch: no completion is left to train on" in text
    (run,) = runs("no-gain")
    assert run.data.metrics["alarms/empty_batch"] == 1.0 and "distillation/loss" not in run.data.metrics


def test_curriculum_probe_and_routing_in_a_campaign_that_repeats_nothing(stack):
    options = {
        "rollout": SMALL["rollout"] | {"group_size": 2, "max_completion_length": 4},
        "filter": {"route": "pass_rate", "teacher_probe": "gain", "min_gain": 2.5},
        "curriculum": {"sampling": "difficulty", "length_start": 3, "length_growth": 1.2},
        "token_weights": {"importance_correction": True, "leak_span": 3, "normaliser": "sequence", "position": "late"},
    }
    before = {kind: stored(kind) for kind in ("curricula", "grades", "prompts")}
    text = campaign("curriculum", 2, **options)
    assert "iteration 1: version" in text
    states = [read_state(folder) for folder in folders("curricula", before["curricula"])]
    states.sort(key=lambda state: sum(graded for _, graded in state.counts.values()))
    assert [sum(graded for _, graded in state.counts.values()) for state in states] == [120, 240]
    assert [state.max_completion_length for state in states] == [4, 4]
    drawn = [
        {e.id for shard in sorted(folder.glob("*.parquet")) for e in read_examples(shard)}
        for folder in folders("prompts", before["prompts"])
    ]
    assert [len(ids) for ids in drawn] == [60, 60] and drawn[0] != drawn[1]
    grades = [g for folder in folders("grades", before["grades"]) for g in read_grades(folder / "grades.parquet")]
    probed = [grade for grade in grades if grade.teacher_gain is not None]
    assert len(grades) == 480 and probed and all(g.keep == (g.teacher_gain > 2.5) for g in probed)
    assert {g.reason for g in probed} == {"", "teacher_no_gain"}
    # 2 or 4 graded completions per prompt: p = k/4 or k/6, 4 p (1 - p) = 3/4, 1 or 5/9, 8/9, 1
    assert {round(grade.weight, 4) for grade in probed if grade.keep} <= {0.75, 1.0, 0.5556, 0.8889}
    for run in runs("curriculum"):
        metrics = run.data.metrics
        assert 0 < metrics["rollout_corr/rollout_is_eff_sample_size"] <= 1
        assert 0 <= metrics["distillation/overlap_ratio"] <= 1 and metrics["completions/max_length"] <= 4
    keys = {info.key for info in store().list("")}
    campaign("curriculum", 2, **options)
    assert {info.key for info in store().list("")} == keys
