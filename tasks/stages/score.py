"""Score stored completions with the teacher: soft targets, computed once and kept next to the rollouts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from opsd_core.prompts.contexts import context_identity
from opsd_core.records.rollouts import Key, Rollout, spooled_rollouts
from opsd_core.records.stored import Chosen, Joined
from opsd_core.records.targets import write_targets
from opsd_core.teacher.kinds import teacher_before_training, teacher_identity
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import score_rollouts
from opsd_core.training.monitors import overlap_ratio
from tasks.context import produce, settings
from tasks.loaded import grades_of, prompt_builder, rollouts_of
from tasks.refs import GradedRef, Iteration, ShardRef, TargetsRef
from tasks.runtime.progress import progress
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.rollout import computed
from tasks.stages.teacher import (
    grades_for_context,
    prompts_of,
    solvers,
    stops_of,
    teacher_budget,
    teacher_parts,
    teacher_ref,
)


@task(name="score-targets", task_run_name="score-targets-it{iteration.number}-shard{shard.shard}", **STAGE)
def score_shard(iteration: Iteration, shard: ShardRef, graded: GradedRef) -> TargetsRef:
    """Teacher's top-k and tail at every position of the shard's completions."""
    identity = score_identity(iteration, shard, graded)
    artifact, seconds = produce("targets", identity, partial(_score, iteration, shard, graded))
    counts = {name: artifact.summary[name] for name in ("num_tokens", "metrics")}
    return TargetsRef(shard=shard.shard, uri=artifact.uri, digest=artifact.digest, seconds=seconds, **counts)


def score_identity(iteration: Iteration, shard: ShardRef, graded: GradedRef) -> dict[str, Any]:
    """What decides the teacher's targets of a shard."""
    config, campaign = iteration.config, iteration.campaign
    identity = {
        "rollouts": shard.digest,
        "teacher": teacher_ref(iteration).digest,
        "template": prompt_builder(campaign.initial, config).teacher_digest,
        "context": context_identity(config.teacher),
        "data": campaign.data.identity,
        "transform": asdict(Transform.of(config.teacher, config.distillation.temperature)),
        "top_k": config.distillation.top_k,
    } | teacher_identity(config)
    if config.teacher.kind.rollouts:
        identity |= {"grades": graded.digest, "budget": teacher_budget(config)}
    if config.filter.keep_per_prompt != "all":
        identity |= {"grades": graded.digest, "kept": True}
    if stops := stops_of(iteration):
        identity["stops"] = [list(ends) for ends in (stops.student, *stops.members)]
    if iteration.solved:
        identity["solved"] = [iteration.solved.identity, iteration.solved.content]
    return identity


def _score(iteration: Iteration, shard: ShardRef, graded: GradedRef, folder: Path) -> dict[str, Any]:
    config, stored = iteration.config, rollouts_of(shard)
    prompts = prompts_of(iteration, stored.light, grades_for_context(iteration, graded)).ids
    wanted = prompts if config.filter.keep_per_prompt == "all" else prompts.keys() & _kept(graded)
    seen = np.fromiter((key in wanted for key in iter(stored.keys())), bool, len(stored))
    rollouts, targets, stops = Chosen(stored.light, np.flatnonzero(seen)), Joined(), stops_of(iteration)
    title, part = f"score-targets-it{iteration.number}-shard{shard.shard}", (shard.shard, config.execution.num_shards)
    with progress(config.name, title, "completions", part) as report:
        for members, taught in _by_members(rollouts, solved := solvers(iteration)):
            teacher = teacher_before_training(teacher_parts(iteration, members=members))
            of = stops if stops is None or members is None else stops.taught_by(members)
            targets.add(score_rollouts(teacher, taught, prompts, config, report, of))
    write_targets(folder / "targets.parquet", targets)
    return {
        "num_tokens": sum(len(t.tail_logprob_T) for t in targets) if solved else int(stored.lengths()[seen].sum()),
        "metrics": overlap_ratio(stored, targets),
        "computed": computed(config, config.execution.microbatch_tokens),
    }


def _kept(graded: GradedRef) -> set[Key]:
    """The few of each prompt that are trained on: nobody asks what the teacher says of the others."""
    rows = grades_of(graded)
    columns = zip(*(rows.column(name) for name in ("example_id", "sample_index", "keep")), strict=True)
    return {(example_id, sample_index) for example_id, sample_index, keep in columns if keep}


def _by_members(
    rollouts: Sequence[Rollout], solved: Mapping[str, tuple[int, ...]] | None
) -> Iterator[tuple[tuple[int, ...] | None, Sequence[Rollout]]]:
    """Rollouts, on disk, by who teaches them; those that nobody may teach are left out."""
    if solved is None:
        yield None, spooled_rollouts(rollouts, settings().cache)
        return
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, rollout in enumerate(rollouts):
        if members := solved[rollout.example_id]:
            groups.setdefault(members, []).append(number)
    for members, numbers in sorted(groups.items()):
        yield members, spooled_rollouts(Chosen(rollouts, np.array(numbers)), settings().cache)
