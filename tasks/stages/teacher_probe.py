"""The last sample gate: prompts at which the teacher itself is no better are not learned from."""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task

from opsd_core.prompts.contexts import context_identity
from opsd_core.records.grades import GradedRollout, read_grades, write_grades
from opsd_core.records.rollouts import read_rollouts
from opsd_core.selection.filters import teacher_probe_reason
from opsd_core.selection.teacher_probe import ProbedAnswer, probe_answers
from opsd_core.teacher.kinds import teacher_identity
from opsd_core.training.monitors import target_metrics
from tasks.context import load_shared, local, produce, stored_examples
from tasks.refs import Campaign, GradedRef, PolicyRef, ShardRef
from tasks.runtime.retries import STAGE
from tasks.stages.teacher import fixed_teacher, grades_for_context, prompt_builder, prompts_of


def probe_teacher(
    campaign: Campaign, policy: PolicyRef, teacher: PolicyRef, shards: list[ShardRef], graded: GradedRef
) -> GradedRef:
    """The grades after the teacher probe; unchanged where filter.teacher_probe=off."""
    if campaign.config.filter.teacher_probe == "off":
        return graded
    return _probe(campaign, policy, teacher, shards, graded)


@task(name="probe-teacher", **STAGE)
def _probe(
    campaign: Campaign, policy: PolicyRef, teacher: PolicyRef, shards: list[ShardRef], graded: GradedRef
) -> GradedRef:
    config = campaign.config
    if config.teacher.weights_kind.is_student:
        teacher = policy
    identity = {
        "grades": graded.digest,
        "policy": policy.digest,
        "teacher": teacher.digest,
        "template": prompt_builder(campaign).teacher_digest,
        "context": context_identity(config.teacher),
        "mixture": [config.teacher.mixture, config.teacher.mixture_weights],
        "data": campaign.data_uri.rsplit("/", 2)[-2],
        "probe": config.filter.model_dump(include={"teacher_probe", "min_gain"}),
        "dtype": config.model.dtype,
    } | teacher_identity(config)
    artifact, seconds = produce("grades", identity, partial(_regrade, campaign, policy, teacher, shards, graded))
    counts = artifact.summary["counts"]
    return graded.model_copy(
        update={"uri": artifact.uri, "digest": artifact.digest, "seconds": graded.seconds + seconds, **counts}
    )


def _regrade(
    campaign: Campaign,
    policy: PolicyRef,
    teacher: PolicyRef,
    shards: list[ShardRef],
    graded: GradedRef,
    folder: Path,
) -> dict[str, Any]:
    config = campaign.config
    grades = read_grades(local(graded.uri) / "grades.parquet")
    student = load_shared(policy.uri, config.model.model_dump_json())
    answers = {e.id: e.answer for e in stored_examples(campaign.data_uri, "train")}
    rollouts = [r for shard in shards for r in read_rollouts(local(shard.uri) / "rollouts.parquet")]
    prompts = prompts_of(campaign, rollouts, grades_for_context(campaign, graded)).ids
    kept = {grade.key for grade in grades if grade.keep}
    asked = [r for r in rollouts if r.key in kept and answers[r.example_id]]
    probed = probe_answers(
        fixed_teacher(campaign, teacher),
        student,
        [prompts[r.key] for r in asked],
        [r.prompt_ids for r in asked],
        [student.tokenizer.encode(answers[r.example_id], add_special_tokens=False) for r in asked],
        config.optimizer.microbatch_tokens,
    )
    by_key = {r.key: answer for r, answer in zip(asked, probed, strict=True)}
    rows = [_after_probe(grade, by_key.get(grade.key), config.filter) for grade in grades]
    write_grades(folder / "grades.parquet", rows)
    num_kept = sum(row.keep for row in rows)
    reasons = dict(Counter(row.reason or "kept" for row in rows))
    metrics = graded.metrics | target_metrics([row.keep for row in rows])
    counts = {"num_kept": num_kept, "num_dropped": len(rows) - num_kept, "reasons": reasons, "metrics": metrics}
    return {"counts": counts}


def _after_probe(grade: GradedRollout, probed: ProbedAnswer | None, config: Any) -> GradedRollout:
    if probed is None:
        return grade
    reason = teacher_probe_reason(probed.gain, probed.answers_itself, config)
    return replace(grade, keep=not reason, reason=reason, teacher_gain=probed.gain)
