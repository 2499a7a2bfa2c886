"""The curriculum between iterations: what the last iteration taught about the prompts."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task

from opsd_core.records.grades import read_grades
from opsd_core.selection.curriculum import Counts, CurriculumState, next_state, read_state, write_state
from tasks.context import local, produce, rollouts_of
from tasks.refs import CurriculumRef, GradedRef, Iteration, ShardRef
from tasks.runtime.retries import STAGE


def known_counts(curriculum: CurriculumRef | None) -> Counts:
    """Right and graded completions per prompt so far; empty before the first iteration."""
    return read_state(local(curriculum)).counts if curriculum else {}


def advance_curriculum(iteration: Iteration, shards: list[ShardRef], graded: GradedRef) -> CurriculumRef | None:
    """The state after the iteration's grades; None for a campaign that keeps none."""
    config = iteration.campaign.config
    if not config.curriculum.tracks_pass_rates and config.filter.route != "pass_rate":
        return None
    return _advance(iteration, shards, graded)


@task(name="advance-curriculum", task_run_name="advance-curriculum-it{iteration.number}", **STAGE)
def _advance(iteration: Iteration, shards: list[ShardRef], graded: GradedRef) -> CurriculumRef:
    config, before = iteration.campaign.config, iteration.curriculum
    length = ("length_start", "length_growth", "length_max_entropy")
    identity = {
        "before": before.digest if before else None,
        "grades": graded.digest,
        "rollouts": [shard.digest for shard in shards],
        "length": config.curriculum.model_dump(include=set(length)),
        "limit": config.rollout.max_completion_length,
    }
    artifact, _ = produce("curricula", identity, partial(_next, iteration, shards, graded))
    limit = artifact.summary["max_completion_length"]
    return CurriculumRef(uri=artifact.uri, digest=artifact.digest, max_completion_length=limit)


def _next(iteration: Iteration, shards: list[ShardRef], graded: GradedRef, folder: Path) -> dict[str, Any]:
    before = read_state(local(iteration.curriculum)) if iteration.curriculum else CurriculumState()
    grades = read_grades(local(graded) / "grades.parquet")
    entropy = float(np.concatenate([r.entropy_T for r in rollouts_of(*shards)]).mean())
    state = next_state(before, [(g.example_id, g.correct) for g in grades], entropy, iteration.campaign.config)
    write_state(folder, state)
    return {"max_completion_length": state.max_completion_length, "num_prompts": len(state.counts)}
