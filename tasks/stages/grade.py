"""Grade an iteration's completions, decide which to train on; last, drop those at which the teacher itself is no better."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from opsd_core.graders import grader_identity
from opsd_core.models.policy import dtype_identity
from opsd_core.prompts.contexts import context_identity
from opsd_core.records.examples import Answers, StoredExamples
from opsd_core.records.grades import write_grades
from opsd_core.records.rollouts import Key, StoredRollouts
from opsd_core.rollout.engines.mismatch import Mismatch
from opsd_core.selection.grading import Graded, grade_rollouts
from opsd_core.selection.teacher_probe import probe_grades
from opsd_core.teacher.kinds import teacher_before_training, teacher_identity
from tasks.context import local, produce
from tasks.loaded import grades_of, prompt_builder, rollouts_of, shared_policy, stored_examples
from tasks.refs import GradedRef, Iteration, PromptSet, Ref, ShardRef
from tasks.runtime.retries import STAGE
from tasks.runtime.side_by_side import HERE, Run
from tasks.runtime.stage import task
from tasks.stages.prompts import known_counts
from tasks.stages.teacher import grades_for_context, prompts_of, solvers, teacher_budget, teacher_parts, teacher_ref


@task(name="grade", task_run_name="grade-it{iteration.number}", **STAGE)
def grade(iteration: Iteration, prompts: PromptSet, shards: list[ShardRef]) -> GradedRef:
    """Judge every completion and decide which are trained on; nothing is deleted, every drop has its reason."""
    identity = grade_identity(iteration, shards)
    artifact, seconds = produce("grades", identity, partial(_grade, iteration, prompts, shards))
    return GradedRef(uri=artifact.uri, digest=artifact.digest, seconds=seconds, **artifact.summary["counts"])


def grade_identity(iteration: Iteration, shards: Sequence[ShardRef]) -> dict[str, Any]:
    """What decides the grades of an iteration's completions."""
    config, curriculum = iteration.config, iteration.curriculum
    identity = {
        "rollouts": [shard.digest for shard in shards],
        "grader": grader_identity(config.data),
        "filter": config.filter.identity(),
    }
    if config.context_from_rollouts:  # a completion may be left out because there is nothing to show the teacher
        identity["context"] = context_identity(config.teacher)
        identity["template"] = prompt_builder(iteration.campaign.initial, config).teacher_digest
        identity["budget"] = teacher_budget(config)
    if config.filter.keep_per_prompt == "random":
        identity["seed"] = config.seed
    if config.rollout.asks_again:
        identity["group_size"] = config.rollout.group_size
    if iteration.solved:
        identity["solved"] = [iteration.solved.identity, iteration.solved.content]
    if config.filter.route == "pass_rate":
        identity["pass_rates"] = curriculum.digest if curriculum else None
    return identity


def _grade(iteration: Iteration, prompts: PromptSet, shards: Sequence[ShardRef], folder: Path) -> dict[str, Any]:
    solved, rollouts = solvers(iteration), rollouts_of(*shards).light
    graded = grade_rollouts(
        rollouts,
        asked(prompts).by_id(),
        iteration.config,
        counts=known_counts(iteration.curriculum),
        withheld=partial(_withheld, iteration, rollouts) if iteration.config.context_from_rollouts else None,
        unsolved={example_id for example_id, members in (solved or {}).items() if not members},
    )
    write_grades(folder / "grades.parquet", graded.rows)
    graded.metrics.update(mismatch_metrics(shards))
    return {"counts": counts_of(graded) | {"num_references": len(rollouts.of("reference"))}}


def mismatch_metrics(shards: Sequence[ShardRef]) -> dict[str, float]:
    """How far the engine that sampled is from transformers, over all shards; nothing where transformers sampled."""
    parts = [Mismatch(**shard.mismatch) for shard in shards if shard.mismatch]
    return Mismatch.together(parts).metrics() if parts else {}


def _withheld(iteration: Iteration, rollouts: StoredRollouts, correct: Mapping[Key, bool | None]) -> Mapping[Key, str]:
    return prompts_of(iteration, rollouts.of("policy"), correct).withheld


def asked(prompts: Ref) -> StoredExamples:
    """The prompts of an iteration, shard after shard."""
    return StoredExamples(sorted(local(prompts).glob("shard-*.parquet")))


def counts_of(graded: Graded) -> dict[str, Any]:
    """What is reported of grades."""
    num_dropped = len(graded.rows) - graded.num_kept
    return {
        "num_kept": graded.num_kept,
        "num_dropped": num_dropped,
        "reasons": graded.reasons,
        "metrics": graded.metrics,
    }


def probe_teacher(iteration: Iteration, shards: list[ShardRef], graded: GradedRef, run: Run = HERE) -> GradedRef:
    """The grades after the teacher probe, which `run` does; unchanged where filter.teacher_probe=off."""
    return graded if iteration.config.filter.teacher_probe == "off" else run.one(_probe, iteration, shards, graded)


@task(name="probe-teacher", task_run_name="probe-teacher-it{iteration.number}", **STAGE)
def _probe(iteration: Iteration, shards: list[ShardRef], graded: GradedRef) -> GradedRef:
    identity = probe_identity(iteration, graded)
    artifact, seconds = produce("grades", identity, partial(_regrade, iteration, shards, graded))
    counts = artifact.summary["counts"]
    return graded.model_copy(
        update={"uri": artifact.uri, "digest": artifact.digest, "seconds": graded.seconds + seconds, **counts}
    )


def probe_identity(iteration: Iteration, graded: GradedRef) -> dict[str, Any]:
    """What decides the grades after the probe."""
    config, campaign = iteration.config, iteration.campaign
    teacher = iteration.policy if config.teacher.weights_kind.is_student else teacher_ref(iteration)
    identity = {
        "grades": graded.digest,
        "policy": iteration.policy.digest,
        "teacher": teacher.digest,
        "template": prompt_builder(campaign.initial, config).teacher_digest,
        "context": context_identity(config.teacher),
        "mixture": [config.teacher.mixture, config.teacher.mixture_weights],
        "data": campaign.data.identity,
        "probe": config.filter.model_dump(include={"teacher_probe", "min_gain"}),
        "dtype": dtype_identity(config.model),
    } | teacher_identity(config)
    if config.context_from_rollouts:
        identity["budget"] = teacher_budget(config)
    return identity


def _regrade(iteration: Iteration, shards: list[ShardRef], graded: GradedRef, folder: Path) -> dict[str, Any]:
    config, rollouts = iteration.config, rollouts_of(*shards).light
    probed = probe_grades(
        Graded(grades_of(graded), graded.metrics),
        rollouts,
        prompts_of(iteration, rollouts, grades_for_context(iteration, graded)).ids,
        Answers(stored_examples(iteration.campaign.data, "train").by_id()),
        (teacher_before_training(teacher_parts(iteration)), shared_policy(iteration.policy, config.model)),
        config,
    )
    write_grades(folder / "grades.parquet", probed.rows)
    return {"counts": counts_of(probed)}
