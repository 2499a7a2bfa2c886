"""The last filter of samples: prompts at which the teacher itself is no better are not learned from."""

from functools import partial
from pathlib import Path
from typing import Any

from opsd_core.models.policy import dtype_identity
from opsd_core.prompts.contexts import context_identity
from opsd_core.records.grades import read_grades, write_grades
from opsd_core.selection.grading import Graded
from opsd_core.selection.teacher_probe import probe_grades
from opsd_core.teacher.kinds import teacher_before_training, teacher_identity
from tasks.context import local, produce, prompt_builder, rollouts_of, shared_policy, stored_examples
from tasks.refs import GradedRef, Iteration, ShardRef
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.grade import counts_of
from tasks.stages.teacher import grades_for_context, prompts_of, teacher_budget, teacher_parts, teacher_ref


def probe_teacher(iteration: Iteration, shards: list[ShardRef], graded: GradedRef) -> GradedRef:
    """The grades after the teacher probe; unchanged where filter.teacher_probe=off."""
    return graded if iteration.config.filter.teacher_probe == "off" else _probe(iteration, shards, graded)


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
    config, rollouts = iteration.config, rollouts_of(*shards)
    probed = probe_grades(
        Graded(read_grades(local(graded) / "grades.parquet"), graded.metrics),
        rollouts,
        prompts_of(iteration, rollouts, grades_for_context(iteration, graded)).ids,
        {example.id: example.answer for example in stored_examples(iteration.campaign.data, "train")},
        (teacher_before_training(teacher_parts(iteration)), shared_policy(iteration.policy, config.model)),
        config,
    )
    write_grades(folder / "grades.parquet", probed.rows)
    return {"counts": counts_of(probed)}
