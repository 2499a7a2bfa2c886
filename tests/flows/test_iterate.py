"""pytest tests/flows/test_iterate.py — whole campaigns through real Prefect, MLflow and S3 servers."""

import json
import re
from pathlib import Path

import mlflow
import pytest
from mlflow.artifacts import download_artifacts
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment

from flows.iterate import iterate
from flows.promote import promote, rollback
from opsd_core.config import resolve
from opsd_core.digest import file_digest
from opsd_core.errors import ConfigError, DataError
from opsd_core.models.policy import load_policy
from opsd_core.records.examples import read_examples
from opsd_core.records.grades import read_grades
from opsd_core.records.outcomes import read_outcomes
from opsd_core.records.rollouts import read_rollouts
from tasks.context import lineage, local, store, tracker
from tasks.refs import PolicyRef, Ref
from tasks.stages.evaluate import evaluate
from tasks.stages.prepare import prepare_model
from tasks.storage.artifacts import describe

ITERATIONS = 3
"""Half of the recipe's: enough to rise, not to arrive."""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def learned(worker):
    """A tiny campaign, triggered as a user triggers it: a deployment, a worker, another process."""
    run = run_deployment(
        "opsd/iterate",
        parameters={"recipe": "tiny", "name": "learns", "iterations": ITERATIONS},
        timeout=600,
        poll_interval=1,
    )
    assert run.state.is_completed(), run.state.message
    return run


def test_self_distillation_rises_and_the_gate_promotes(learned):
    versions = tracker().versions("learns")
    champion = tracker().aliased("learns", "champion")
    assert versions[0].tags["opsd.role"] == "initial"
    assert champion.tags["gate.verdict"] == champion.tags["opsd.gate"] == "promoted"
    before, after = re.match(r"accuracy ([\d.]+) -> ([\d.]+)", champion.tags["gate.numbers"]).groups()
    first = next(v for v in versions if v.tags.get("opsd.iteration") == "0")
    assert float(after) > float(before) and float(after) >= 0.15
    assert first.tags["opsd.parent_version"] == str(versions[0].version)


def test_lineage_leads_from_the_version_to_verified_rollouts(learned):
    tags = tracker().aliased("learns", "champion").tags
    rollouts = [r for uri in lineage(tags)["rollouts"] for r in read_rollouts(local(uri) / "rollouts.parquet")]
    config = resolve("tiny")
    assert len(rollouts) == config.rollout.num_prompts
    assert len(read_grades(local(lineage(tags)["grades"]) / "grades.parquet")) == len(rollouts)
    identity = describe(store(), lineage(tags)["rollouts"][0]).identity
    assert identity["sampling"]["temperature"] == 1.0 and identity["engine"]["dtype"] == "float32"
    assert describe(store(), lineage(tags)["rollouts"][0]).summary["computed"]["bitwise_reproducible"]
    settings = json.loads((local(lineage(tags)["config"]) / "environment.json").read_text())
    assert settings["git_revision"] and settings["packages"]["torch"]


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow's own classes
def test_version_loads_with_transformers_and_with_mlflow(learned, tmp_path):
    folder = download_artifacts(artifact_uri="models:/learns@champion", dst_path=str(tmp_path))
    policy = load_policy(Path(folder), resolve("tiny").model)
    assert policy.causal_lm.num_parameters() < 2_000_000
    answers = mlflow.pyfunc.load_model("models:/learns@champion").predict(["12+34="])
    assert len(answers) == 1 and answers[0][:1].isdigit()


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow's own classes
def test_the_first_version_is_served_as_it_was_judged_too(learned, tmp_path):
    first = tracker().get_version("learns", 1)
    folder = Path(download_artifacts(artifact_uri="models:/learns/1", dst_path=str(tmp_path)))
    weights = local(first.tags["opsd.model_uri"]) / "model.safetensors"
    assert first.source != first.tags["opsd.model_uri"] and file_digest(folder / "model.safetensors") == file_digest(weights)
    config, data = resolve("tiny", {"name": "learns"}), Ref(uri=lineage(tracker().aliased("learns", "champion").tags)["data"])
    start = PolicyRef(uri=first.tags["opsd.model_uri"], digest=first.tags["opsd.model_digest"])
    judged = flow(lambda: evaluate(config, data, start, "again"), name="judged")()
    outcomes = [o for o in read_outcomes(local(judged) / "outcomes.parquet") if o.mode == "greedy"][:20]
    questions = {example.id: example.question for example in read_examples(local(data) / "validation.parquet")}
    answers = mlflow.pyfunc.load_model("models:/learns/1").predict([questions[o.example_id] for o in outcomes])
    assert judged.seconds == 0 and answers == [o.text for o in outcomes]


def test_one_mlflow_run_per_iteration_below_the_campaigns(learned):
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("learns")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    config = resolve("tiny")
    assert len(runs) == len(children) + 1 == ITERATIONS + 1
    for run in children:
        history = client.get_metric_history(run.info.run_id, "distillation/loss")
        assert len({point.step for point in history}) == len(history) == config.optimizer.num_steps
        assert run.data.metrics["teacher/privilege_gain"] > 0 and run.info.status == "FINISHED"


def test_prefect_names_every_stage_and_keeps_a_report(learned):
    with get_client(sync_client=True) as client:
        names = {run.name for run in client.read_task_runs(limit=200)}
        artifacts = {artifact.key for artifact in client.read_artifacts(limit=200)}
    assert {"rollout-it1-shard0", "score-targets-it0-shard1", "distil-it2", "gate-it0"} <= names
    assert {"opsd-learns-it0", "opsd-learns-campaign", "opsd-learns-summary"} <= artifacts
    assert all(key.startswith("opsd-") for key in artifacts if key), "keyed by campaign"


def test_the_same_campaign_again_repeats_nothing(learned):
    before = [(v.version, v.tags) for v in tracker().versions("learns")]
    keys = {info.key for info in store().list("")}
    iterate(recipe="tiny", name="learns", iterations=ITERATIONS)
    assert [(v.version, v.tags) for v in tracker().versions("learns")] == before
    assert {info.key for info in store().list("")} - keys == set()


def test_null_control_does_not_move_and_is_refused(stack):
    null = {"teacher": {"context": "none"}, "control": True}
    text = iterate(recipe="tiny", name="null", iterations=1, overrides=null)
    version = tracker().aliased("null", "candidate")
    assert version.tags["opsd.gate"] == "refused" and "promoted" not in text
    assert tracker().version_by_alias("null", "champion") != version.version
    metrics = mlflow.MlflowClient().get_run(version.run_id).data.metrics
    assert metrics["teacher/divergence"] < 1e-6 and abs(metrics["distillation/loss"]) < 1e-6


def test_bad_input_fails_before_work_with_one_paragraph(stack):
    with pytest.raises(ConfigError, match=r"rollout\.nprompts: unknown key"):
        iterate(recipe="tiny", name="bad", overrides={"rollout": {"nprompts": 1}})
    with pytest.raises(DataError, match=r"max_teacher_prompt_length=5"):
        iterate(recipe="tiny", name="bad", overrides={"prompts": {"max_teacher_prompt_length": 5}})
    assert tracker().version_by_alias("bad", "champion") is None


def test_a_person_moves_the_champion_back_and_forth_and_every_move_is_kept(learned):
    champion = tracker().version_by_alias("learns", "champion")
    rollback(name="learns", reason="looks odd", who="ada")
    before = tracker().version_by_alias("learns", "champion")
    assert before < champion
    promote(name="learns", version=champion, reason="it was the data", who="ada")
    assert tracker().version_by_alias("learns", "champion") == champion
    last_two = [(m.action, m.before, m.after, m.why, m.who) for m in tracker().moves("learns")[-2:]]
    assert last_two == [
        ("rollback", champion, before, "looks odd", "ada"),
        ("promote", before, champion, "it was the data", "ada"),
    ]


def test_a_campaign_starts_from_a_registered_version_or_from_a_plain_folder_in_s3(learned):
    champion = tracker().aliased("learns", "champion")
    weights = local(champion.tags["opsd.model_uri"])
    for path in weights.iterdir():
        store().put(f"plain/folder/{path.name}", path)

    @flow
    def prepare(source: str) -> PolicyRef:
        return prepare_model(resolve("tiny", {"model": {"source": source}}))

    assert prepare("models:/learns@champion").digest == champion.tags["opsd.model_digest"]
    copied = local(prepare(store().uri("plain/folder")).uri)
    assert (copied / "model.safetensors").read_bytes() == (weights / "model.safetensors").read_bytes()
