"""pytest tests/flows/test_study.py — a study through a real worker: arms, seeds, sharing, report, and again for nothing."""

import json
import os
from pathlib import Path

import mlflow
import pytest
from mlflow.artifacts import download_artifacts
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment

from flows.study import study, train_arms
from opsd_core.errors import ConfigError
from opsd_core.study import resolve_study
from tasks.context import local, settings, store
from tasks.refs import PolicyRef
from tasks.storage.artifacts import describe
from tasks.study.refs import Checkpoint, Training

pytestmark = pytest.mark.timeout(1000)

ARMS = ["base", "opsd", "null", "shuffled"]
SMALL = {
    "iterations": 1,
    "data": {"size": 1000},
    "rollout": {"num_prompts": 60},
    "optimizer": {"num_steps": 4, "batch_size": 16},
    "evaluation": {"num_items": 40},
}
PARAMETERS = {
    "recipe": "tiny",
    "name": "few-steps",
    "arms": ARMS,
    "seeds": [0, 1],
    "rates": {},
    "test_items": 50,
    "test_samples": 2,
    "sets": ["tiny_copying", "tiny_text"],
    "overrides": SMALL,
}

LEFT_BEHIND = settings().cache / ".work-of-a-killed-process"


@pytest.fixture(scope="module")
def report(worker, tmp_path_factory):
    """The finished study's numbers and page, from MLflow."""
    LEFT_BEHIND.mkdir(parents=True)
    os.utime(LEFT_BEHIND, (0, 0))
    run = run_deployment("opsd/study", parameters=PARAMETERS, timeout=900, poll_interval=0.5)
    assert run.state.is_completed(), run.state.message
    parent, _ = runs_of("few-steps")
    folder = Path(download_artifacts(run_id=parent.info.run_id, dst_path=str(tmp_path_factory.mktemp("study"))))
    return json.loads((folder / "study.json").read_text()), (folder / "study.html").read_text()


def runs_of(name):
    """The study's parent run and its children."""
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if run not in children]
    return parent, children


def test_every_arms_answers_stand_on_one_page_and_its_curve_begins_with_the_base_model(report):
    parent, children = runs_of("few-steps")
    page = Path(download_artifacts(run_id=parent.info.run_id, artifact_path="answers.html")).read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["sides"] == ["base", *(f"{arm}, seed 0" for arm in ARMS[1:])] and data["num_items"] == 50
    assert all(sum(total["kinds"].values()) == 50 for total in data["totals"].values())
    starts = {mlflow.MlflowClient().get_metric_history(run.info.run_id, "eval/accuracy")[0].value for run in children}
    assert len(starts) == 1


def test_arms_tidy_the_local_copies(report):
    """A study is hours of iterations, each of which leaves copies of trainer states and weights."""
    assert not LEFT_BEHIND.exists()


def test_every_arm_and_seed_is_measured_once_and_has_a_child_run(report):
    numbers, page = report
    assert [arm["name"] for arm in numbers["arms"]] == ARMS
    assert [arm["seeds"] for arm in numbers["arms"]] == [[0], [0, 1], [0, 1], [0, 1]]
    parent, children = runs_of("few-steps")
    assert {run.info.run_name.rsplit("-rate", 1)[0] for run in children} == {
        f"{arm}-seed{seed}" for arm in ARMS[1:] for seed in (0, 1)
    }
    assert all(run.info.status == "FINISHED" for run in (parent, *children))
    assert all("test/accuracy" in run.data.metrics and "test/avg_at_2" in run.data.metrics for run in children)
    assert page.count("data:image/png;base64,") >= 4 and "://" not in page and "<script" not in page
    with get_client(sync_client=True) as client:
        assert {"opsd-few-steps-report", "opsd-few-steps-words"} <= {a.key for a in client.read_artifacts(limit=200)}


def test_controls_and_costs_say_what_was_done(report):
    numbers, _ = report
    arms = {arm["name"]: arm for arm in numbers["arms"]}
    steps, batch, tokens = 4, 16, arms["opsd"]["costs"]["trained_tokens"]
    assert 3 * steps * batch <= tokens <= 4 * steps * batch
    shared = ("generated_tokens", "teacher_tokens")
    assert all(arms[a]["costs"][name] == arms["opsd"]["costs"][name] for a in ("null", "shuffled") for name in shared)
    assert all(arms[a]["costs"]["peak_bytes"] > 50e6 and arms[a]["costs"]["stored_bytes"] > 2e6 for a in ARMS[1:])
    null = [row for row in (*numbers["differences"], *numbers["sets"]) if row["arm"] == "null"]
    assert null and all(row["mean"] == row["low"] == row["high"] == 0.0 and not row["outside_noise"] for row in null)
    opsd = next(row for row in numbers["sets"] if row["arm"] == "opsd" and row["set"] == "tiny_text")
    assert opsd["mean"] != 0.0 and len(opsd["within_seeds"]) == 2


def test_arms_share_the_first_rollouts_of_their_seed(report):
    stored = [info.key for info in store().list("study-arms/") if info.key.endswith("MANIFEST.json")]
    arms = [describe(store(), store().uri(key.rpartition("/")[0])) for key in stored]
    arms = [arm for arm in arms if arm.identity["config"]["rollout"]["num_prompts"] == SMALL["rollout"]["num_prompts"]]
    assert len(arms) == 6
    first = {}
    for arm in arms:
        point = json.loads((local(arm.uri) / "training.json").read_text())["checkpoints"][0]
        first.setdefault(arm.identity["config"]["seed"], set()).add(tuple(shard["uri"] for shard in point["shards"]))
    assert sorted(first) == [0, 1] and all(len(uris) == 1 for uris in first.values())


def test_the_same_study_again_makes_nothing_new(report):
    keys = {info.key for info in store().list("")}
    text = study(**PARAMETERS)
    assert {info.key for info in store().list("")} == keys
    assert "null: " in text and "inside noise" in text and len(runs_of("few-steps")[1]) == 6


def test_unknown_arms_and_broken_overrides_are_refused_before_work(stack):
    with pytest.raises(ConfigError, match=r"arms has magic.*Available: base"):
        study(recipe="tiny", arms=["magic"])
    with pytest.raises(ConfigError, match=r"rollout\.nprompts: unknown key"):
        study(recipe="tiny", arms=["opsd"], overrides={"rollout": {"nprompts": 1}})


def test_only_arms_with_several_rates_wait_for_the_first_seed():
    config = resolve_study("tiny", {}, {"arms": ["sft", "opsd", "null"], "seeds": [4, 5], "rates": {"opsd": [0.1, 0.3, 0.2]}})
    waves = []

    def run(_task, calls):
        waves.append([call[1:] for call in calls])
        return [trained(arm, seed, rate) for _, arm, seed, rate in calls]

    def trained(arm, seed, rate):
        policy = PolicyRef(uri="s3://x/models/y", digest="d")
        point = Checkpoint(
            iteration=0, policy=policy, validation={"eval/accuracy": rate or 0.5}, training={}, shards=[]
        )
        return Training(arm=arm, seed=seed, rate=rate or 0.01, run_id="", checkpoints=[point])

    found = train_arms(config, None, run)
    trials = [("opsd", 4, rate) for rate in (0.1, 0.3, 0.2)]
    assert waves == [[*trials, *((arm, seed, None) for seed in (4, 5) for arm in ("sft", "null"))], [("opsd", 5, 0.3)]]
    assert [(t.arm, t.seed, t.rate) for t in found if t.arm == "opsd"] == [("opsd", 4, 0.3), ("opsd", 5, 0.3)]
    assert len(found) == 6
