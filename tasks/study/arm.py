"""One arm of a study: the campaign's own stages without gate and registry.

The stages are called as plain functions inside one Prefect task per arm and seed: their results are artifacts, so a killed
arm resumes where it stopped, and hundreds of task runs of a second each would cost more than the work.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig, config_at
from opsd_core.config.teacher import MOVING
from opsd_core.errors import AlarmError, DataError, TrainingError
from opsd_core.study import find_arm
from opsd_core.study.bites import dropped_shares
from tasks.context import local, produce, store, tidy_cache, tracker
from tasks.loaded import rollouts_of
from tasks.refs import Campaign, CurriculumRef, Held, Iteration, PolicyRef, Ref, Sampled
from tasks.runtime.peak_memory import measured_peak
from tasks.runtime.retries import STAGE
from tasks.runtime.side_by_side import PLAIN
from tasks.runtime.stage import task
from tasks.sources import functions_identity
from tasks.stages.distil import distil_candidate
from tasks.stages.evaluate import evaluate
from tasks.stages.grade import grade, probe_teacher
from tasks.stages.prepare import overlap_identity, prepare_teachers
from tasks.stages.prompts import advance_curriculum
from tasks.stages.refilling.join import sampling_seconds
from tasks.stages.rehearse import rehearse
from tasks.stages.renewal.sampling import Ahead, begin_ahead, roll_out
from tasks.stages.renewal.saved import freshness
from tasks.stages.score import score_shard
from tasks.states import rehearsal_sources
from tasks.storage.artifacts import Artifact, describe
from tasks.study.labels import labelled_part
from tasks.study.refs import Checkpoint, Study, Training


@task(name="train-arm", task_run_name="train-{arm}-seed{seed}", **STAGE)
def train_arm(study: Study, arm: str, seed: int, rate: float | None = None, threads: int = 0) -> Training:
    """All iterations of one arm, each evaluated on the validation split; a finished arm is found and not run again.

    `threads`: torch threads of this process; 0 leaves them.
    """
    if threads:
        torch.set_num_threads(threads)
    config = study.arm_config(arm, seed, rate)
    data = labelled_part(study, find_arm(arm).num_labels)
    teachers = prepare_teachers.fn(config, study.initial)
    identity = {
        "config": config.deciding("name", "promotion"),
        "initial": study.initial.digest,
        "data": data.identity,
        "arm": arm,
    } | overlap_identity(config) | functions_identity(config)
    if teachers and not any(source.startswith(MOVING) for source in config.teacher.sources):
        identity["teachers"] = [teacher.digest for teacher in teachers]
    if config.rehearsal.share:
        identity["rehearsal"] = rehearsal_sources(config)
    run_id = tracker().child_run(study.run_id, f"{arm}-seed{seed}-rate{config.optimizer.learning_rate:g}")
    campaign = study.campaign(config, teachers, data).model_copy(update={"run_id": run_id})
    artifact, seconds = kept_arm(identity, study.git_revision, partial(_train, study, campaign, arm))
    trained = json.loads((local(artifact.uri) / "training.json").read_text())
    training = Training(**trained, arm=arm, seed=seed, rate=config.optimizer.learning_rate, run_id=run_id)
    training = training.model_copy(update={"costs": artifact.summary["costs"]})
    _log(training, reused=not seconds)
    return training


def kept_arm(identity: dict[str, Any], revision: str, train: Callable[[Path], dict[str, Any]]) -> tuple[Artifact, float]:
    """What training an arm came to, as `produce`: what could not be trained is tried again by another revision of the code."""

    def make(folder: Path) -> dict[str, Any]:
        return train(folder) | {"revision": revision}

    artifact, seconds = produce("study-arms", identity, make)
    failed = json.loads((local(artifact.uri) / "training.json").read_text())["failed"]
    if failed and artifact.summary.get("revision") != revision:
        return produce("study-arms", identity | {"revision": revision}, make)
    return artifact, seconds


def _train(study: Study, campaign: Campaign, arm: str, folder: Path) -> dict[str, Any]:
    points, failed = [], ""
    try:
        with measured_peak() as peak:
            for point in _iterations(study, campaign):
                points.append(point)
    except (AlarmError, TrainingError, DataError) as error:  # an arm that cannot be trained is a result
        failed = str(error)
        get_run_logger().warning("arm %s ends after %d iterations: %s", arm, len(points), failed)
    text = json.dumps({"checkpoints": [point.model_dump() for point in points], "failed": failed}, indent=1)
    (folder / "training.json").write_text(text)
    return {"costs": _costs(points, campaign.config) | {"peak_bytes": float(peak.bytes)}}


def _iterations(study: Study, campaign: Campaign) -> Iterator[Checkpoint]:
    """The loop of `flows.iterate` without a gate: every iteration starts from the one before, which is `previous`."""
    config = campaign.config
    if config.rehearsal.share:
        campaign = rehearse.fn(campaign)
    measuring = study.measuring(num_samples=0)
    loop = _Loop(campaign.initial)
    for number in range(config.iterations):
        iteration = Iteration(
            campaign=campaign,
            number=number,
            config=config_at(config, number, loop.length()),
            run_id=campaign.run_id,
            policy=loop.policy,
            champion=loop.policy,
            teachers=campaign.teachers,
            curriculum=loop.curriculum,
        )
        checkpoint = _iteration(iteration, loop, study.data, measuring)
        loop.policy = checkpoint.policy
        yield checkpoint
        tidy_cache()


@dataclass
class _Loop:
    """What one iteration hands to the next, as `flows.iterate.Loop`."""

    policy: PolicyRef
    curriculum: CurriculumRef | None = None
    held: Held | None = None
    ahead: Ahead | None = None

    def length(self) -> int | None:
        return self.curriculum.max_completion_length if self.curriculum else None


def _rolled_out(iteration: Iteration, loop: _Loop) -> tuple[Iteration, Sampled]:
    """The completions to learn from, graded: sampled ahead, kept, or sampled now."""
    config = iteration.campaign.config
    iteration, held, judged = roll_out(iteration, loop.held, loop.ahead, PLAIN)
    loop.held, loop.ahead = held, None
    graded = grade.fn(iteration, held.prompts, held.shards)
    loop.curriculum = advance_curriculum(iteration, held.shards, graded)
    if config.execution.overlap and iteration.number + 1 < config.iterations:
        following = config_at(config, iteration.number + 1, loop.length())
        loop.ahead = begin_ahead(iteration, following, loop.curriculum, PLAIN)
    return iteration, held.sampled(graded, judged)


def _iteration(iteration: Iteration, loop: _Loop, data: Ref, measuring: CampaignConfig) -> Checkpoint:
    iteration, sampled = _rolled_out(iteration, loop)
    shards, graded = sampled.shards, probe_teacher(iteration, sampled.shards, sampled.graded)
    recorded = iteration.config.distillation.records_targets
    targets = [score_shard.fn(iteration, shard, graded) for shard in shards] if recorded else []
    sampled = sampled.model_copy(update={"graded": graded, "targets": targets})
    distilled = distil_candidate.fn(iteration, sampled)
    validation = evaluate.fn(measuring, data, distilled.policy, f"it{iteration.number}-candidate")
    training = {
        **distilled.metrics,
        **distilled.probes,
        **graded.metrics,
        **freshness(iteration, sampled),
        "rollout/kept": float(graded.num_kept),
        **dropped_shares(graded.num_kept, graded.num_dropped, graded.reasons),
    }
    point = Checkpoint(
        iteration=iteration.number,
        policy=distilled.policy,
        validation=validation.metrics,
        training=training,
        shards=[Ref(uri=shard.uri) for shard in shards],
        targets=[Ref(uri=target.uri) for target in targets],
        rehearsal=iteration.campaign.rehearsal,
    )
    logged = validation.metrics | {name: value for name, value in training.items() if name.startswith("rollout/")}
    start = evaluate.fn(measuring, data, iteration.campaign.initial, "base").metrics if iteration.number == 0 else {}
    tracker().log_metrics(iteration.run_id, [(iteration.number, start), (iteration.number + 1, logged)])
    return point


def _costs(points: list[Checkpoint], config: CampaignConfig) -> dict[str, float]:
    """What the arm would have cost alone: recorded when each artifact was made, whoever made it."""
    kinds = {
        "rollout": [ref for point in points for ref in (*point.shards, point.rehearsal) if ref],
        "teach": [ref for point in points for ref in point.targets],
        "distil": [point.policy.state for point in points],
    }
    kinds = {kind: list({ref.uri: ref for ref in refs}.values()) for kind, refs in kinds.items()}
    stored = {kind: [describe(store(), ref.uri) for ref in refs] for kind, refs in kinds.items()}
    seconds = {
        f"{kind}_seconds": sum(map(sampling_seconds, artifacts))
        for kind, artifacts in stored.items()
    }
    models = [describe(store(), point.policy.uri) for point in points]
    everything = [artifact for artifacts in stored.values() for artifact in artifacts] + models
    objective = config.distillation
    generated = sum(r.num_sampled for r in rollouts_of(*kinds["rollout"]).light.of("policy"))
    trained = sum(point.training["tokens/trained"] for point in points)
    scored = sum(float(artifact.summary["num_tokens"]) for artifact in stored["teach"])
    return {
        "generated_tokens": float(generated),
        "teacher_tokens": 0.0 if objective.teacher_free else scored if objective.records_targets else trained,
        "trained_tokens": trained,
        **seconds,
        "seconds": sum(seconds.values()),
        "stored_bytes": float(sum(artifact.num_bytes for artifact in everything)),
    }


def _log(training: Training, *, reused: bool) -> None:
    chosen = training.chosen
    figures = {f"cost/{name}": value for name, value in training.costs.items()}
    if chosen is not None:
        figures |= {"chosen/iteration": float(chosen.iteration)}
        figures |= {f"chosen/{name}": value for name, value in chosen.validation.items()}
    experiment = tracker()
    experiment.log_metrics(training.run_id, [(0, figures)])
    tags = {"opsd.arm": training.arm, "opsd.seed": str(training.seed), "opsd.failed": training.failed[:500]}
    experiment.log_tags(training.run_id, tags | {"opsd.reused": str(reused).lower()})
    experiment.end_run(training.run_id, "FAILED" if training.failed else "FINISHED")
    experiment.flush()  # a pool's process skips the clean-up at exit of a main process
