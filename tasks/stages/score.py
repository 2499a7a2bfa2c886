"""Score stored completions with the teacher: soft targets, computed once and kept beside the rollouts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task

from opsd_core.prompts.contexts import context_identity
from opsd_core.records.rollouts import Rollout, read_rollouts
from opsd_core.records.targets import write_targets
from opsd_core.teacher.kinds import teacher_identity
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import score_targets
from opsd_core.training.monitors import overlap_ratio
from tasks.context import local, produce
from tasks.refs import Campaign, GradedRef, PolicyRef, ShardRef, TargetsRef
from tasks.runtime.progress import progress
from tasks.runtime.retries import STAGE
from tasks.stages.teacher import fixed_teacher, grades_for_context, prompt_builder, prompts_of, solvers


@task(name="score-targets", task_run_name="score-targets-it{shard.iteration}-shard{shard.shard}", **STAGE)
def score_shard(campaign: Campaign, teacher: PolicyRef, shard: ShardRef, graded: GradedRef) -> TargetsRef:
    """Teacher's top-k and tail at every position of the shard's completions."""
    config = campaign.config
    identity = {
        "rollouts": shard.digest,
        "teacher": teacher.digest,
        "template": prompt_builder(campaign).teacher_digest,
        "context": context_identity(config.teacher),
        "data": campaign.data_uri.rsplit("/", 2)[-2],
        "transform": asdict(Transform.of(config.teacher, config.distillation.temperature)),
        "top_k": config.distillation.top_k,
    } | teacher_identity(config)
    if config.teacher.kind.rollouts:
        identity["grades"] = graded.digest
    if campaign.solved:
        identity["solved"] = campaign.solved.rsplit("/", 2)[-2:]
    artifact, seconds = produce("targets", identity, partial(_score, campaign, teacher, shard, graded))
    return TargetsRef(
        shard=shard.shard,
        uri=artifact.uri,
        digest=artifact.digest,
        num_tokens=artifact.summary["num_tokens"],
        metrics=artifact.summary["metrics"],
        seconds=seconds,
    )


def _score(campaign: Campaign, teacher: PolicyRef, shard: ShardRef, graded: GradedRef, folder: Path) -> dict[str, Any]:
    config = campaign.config
    rollouts = read_rollouts(local(shard.uri) / "rollouts.parquet")
    prompts = prompts_of(campaign, rollouts, grades_for_context(campaign, graded)).ids
    rollouts = [rollout for rollout in rollouts if rollout.key in prompts]
    targets = []
    with progress(f"targets-it{shard.iteration}-shard{shard.shard}", "completions") as report:
        for members, taught in _by_members(rollouts, solvers(campaign)):
            targets += score_targets(
                fixed_teacher(campaign, teacher, members),
                taught,
                [prompts[rollout.key] for rollout in taught],
                config.distillation.top_k,
                Transform.of(config.teacher, config.distillation.temperature),
                config.optimizer.microbatch_tokens,
                report,
            )
    write_targets(folder / "targets.parquet", targets)
    num_tokens = sum(len(t.tail_logprob_T) for t in targets)
    return {"num_tokens": num_tokens, "metrics": overlap_ratio(rollouts, targets)}


def _by_members(
    rollouts: Sequence[Rollout], solved: Mapping[str, tuple[int, ...]] | None
) -> list[tuple[tuple[int, ...] | None, list[Rollout]]]:
    """Rollouts by who teaches them; those that nobody may teach are left out."""
    if solved is None:
        return [(None, list(rollouts))]
    groups: dict[tuple[int, ...], list[Rollout]] = {}
    for rollout in rollouts:
        if members := solved[rollout.example_id]:
            groups.setdefault(members, []).append(rollout)
    return sorted(groups.items())
