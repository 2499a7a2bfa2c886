"""pytest tests/flows/test_pretrain.py — a supervised warm start, and the campaign of the same name that starts from it."""


import mlflow
import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from flows.iterate import iterate
from flows.pretrain import pretrain
from opsd_core.config import resolve, supervised
from opsd_core.errors import ConfigError
from opsd_core.records.rollouts import read_rollouts
from tasks.champion.moves import promote_version, roll_back
from tasks.context import lineage, local, tracker
from tasks.stages.prepare import prepare_model
from tasks.stages.weights import warm_start

pytestmark = pytest.mark.timeout(900)

SMALL = {
    "optimizer": {"batch_size": 8},
    "execution": {"checkpoint_every": 2},
    "evaluation": {"num_items": 20},
    "model": {"lora": {"rank": 2}},
}


def inside(task, *arguments):
    """A task's result, run in a flow of its own."""

    @flow(name="opsd-test")
    def body():
        return task(*arguments)

    return body()


def shown(name):
    """The newest report of the model's iteration 0, and that iteration's metrics in MLflow."""
    with get_client(sync_client=True) as client:
        reports = [a for a in client.read_artifacts(limit=200) if a.key == f"opsd-{name}-it0"]
    client, version = mlflow.MlflowClient(), tracker().aliased(name, "candidate").version
    run_id = client.get_model_version(name, str(version)).run_id
    return max(reports, key=lambda a: a.created).data, client.get_run(run_id).data.metrics


def test_a_campaign_starts_from_what_pretraining_of_the_same_name_promoted(stack):
    settings = {"recipe": "tiny", "name": "warm", "num_prompts": 24, "num_steps": 2, "overrides": SMALL}
    pretrain(**settings)
    registry = tracker()
    made = registry.aliased("warm", "candidate")
    report, metrics = shown("warm")
    assert "24 prompts, nothing sampled, 24 references of 96 tokens;" in report
    assert metrics["rollout/references"] == 24 and not {"rollout/accuracy", "rollout/tokens"} & metrics.keys()
    rollouts = [r for uri in lineage(made.tags)["rollouts"] for r in read_rollouts(local(uri) / "rollouts.parquet")]
    assert {r.source for r in rollouts} == {"reference"} and lineage(made.tags)["targets"] == []
    config = resolve("tiny", SMALL, {"name": "warm"})
    source = inside(prepare_model, config)
    assert made.tags["opsd.pretrained_from"] == source.digest
    assert inside(warm_start, config, source) == config  # not promoted yet

    inside(promote_version, "warm", None, "warm start", "test")
    assert inside(warm_start, config, source).model.source == made.tags["opsd.model_uri"]
    assert inside(warm_start, config, source.model_copy(update={"digest": "of another source"})) == config
    cold = resolve("tiny", SMALL, {"name": "warm", "model": {"warm_start": False}})
    assert inside(warm_start, cold, source) == cold

    iterate(**settings, iterations=1)
    report, metrics = shown("warm")
    sampled = f"{metrics['rollout/tokens']:.0f} sampled tokens, accuracy of the rollouts {metrics['rollout/accuracy']:.3f};"
    assert sampled in report and metrics["rollout/tokens"] >= 24
    candidate = registry.aliased("warm", "candidate")
    assert lineage(candidate.tags)["parent_digest"] == made.tags["opsd.model_digest"]
    assert candidate.tags["opsd.parent_version"] == str(made.version) and "opsd.pretrained_from" not in candidate.tags
    assert len(registry.versions("warm")) == 3  # source, pretrained, candidate
    registry.promote("warm", candidate.version, "later champion", "test")
    assert inside(warm_start, config, source).model.source == made.tags["opsd.model_uri"]  # the same trigger, the same campaign

    inside(roll_back, "warm", "candidate is worse", "test")
    assert inside(warm_start, config, source).model.source == made.tags["opsd.model_uri"]
    inside(roll_back, "warm", "so is the warm start", "test")
    assert inside(warm_start, config, source) == config


@pytest.mark.slow
def test_pretraining_learns_the_task_and_passes_the_gate(stack):
    text = pretrain(recipe="tiny", name="taught", iterations=2, num_steps=90, overrides={"evaluation": {"num_items": 200}})
    assert "promoted" in text
    champion = tracker().aliased("taught", "champion")
    assert champion.tags["opsd.pretrained_from"] and champion.tags["gate.verdict"] == "promoted"


def test_schedules_and_missing_references_are_refused_before_any_work():
    with pytest.raises(ConfigError, match=r"rollout\.temperature: pretraining has one objective"):
        supervised(resolve("tiny", {"curriculum": {"schedules": {"rollout.temperature": [1.2, 1.0]}}, "iterations": 2}))
    made = supervised(resolve("u_opsd"))
    assert made.distillation.teacher_free and made.rollout.on_policy_fraction == 0.0 and made.rollout.group_size == 1
