"""The curriculum between iterations: what is in force now, and what the last iteration taught about the prompts."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task

from opsd_core.config import config_at
from opsd_core.records.grades import read_grades
from opsd_core.records.rollouts import read_rollouts
from opsd_core.selection.curriculum import Counts, CurriculumState, next_state, read_state, write_state
from tasks.context import local, produce
from tasks.refs import Campaign, CurriculumRef, GradedRef, ShardRef
from tasks.runtime.retries import STAGE


def in_iteration(campaign: Campaign, iteration: int, curriculum: CurriculumRef | None) -> Campaign:
    """The campaign with the settings that schedules and length limit give this iteration."""
    length = curriculum.max_completion_length if curriculum else None
    return campaign.model_copy(update={"config": config_at(campaign.config, iteration, length)})


def known_counts(curriculum: CurriculumRef | None) -> Counts:
    """Right and graded completions per prompt so far; empty before the first iteration."""
    return read_state(local(curriculum.uri)).counts if curriculum else {}


def advance_curriculum(
    campaign: Campaign, iteration: int, curriculum: CurriculumRef | None, shards: list[ShardRef], graded: GradedRef
) -> CurriculumRef | None:
    """The state after the iteration's grades; None for a campaign that keeps none."""
    config = campaign.config
    if not config.curriculum.tracks_pass_rates and config.filter.route != "pass_rate":
        return None
    return _advance(campaign, iteration, curriculum, shards, graded)


@task(name="advance-curriculum", task_run_name="advance-curriculum-it{iteration}", **STAGE)
def _advance(
    campaign: Campaign, iteration: int, curriculum: CurriculumRef | None, shards: list[ShardRef], graded: GradedRef
) -> CurriculumRef:
    config = campaign.config
    length = ("length_start", "length_growth", "length_max_entropy")
    identity = {
        "before": curriculum.digest if curriculum else None,
        "grades": graded.digest,
        "rollouts": [shard.digest for shard in shards],
        "length": config.curriculum.model_dump(include=set(length)),
        "limit": config.rollout.max_completion_length,
    }
    artifact, _ = produce("curricula", identity, partial(_next, campaign, curriculum, shards, graded))
    limit = artifact.summary["max_completion_length"]
    return CurriculumRef(uri=artifact.uri, digest=artifact.digest, max_completion_length=limit)


def _next(
    campaign: Campaign, curriculum: CurriculumRef | None, shards: list[ShardRef], graded: GradedRef, folder: Path
) -> dict[str, Any]:
    before = read_state(local(curriculum.uri)) if curriculum else CurriculumState()
    grades = read_grades(local(graded.uri) / "grades.parquet")
    rollouts = [r for shard in shards for r in read_rollouts(local(shard.uri) / "rollouts.parquet")]
    entropy = float(np.concatenate([r.entropy_T for r in rollouts]).mean())
    state = next_state(before, [(g.example_id, g.correct) for g in grades], entropy, campaign.config)
    write_state(folder, state)
    return {"max_completion_length": state.max_completion_length, "num_prompts": len(state.counts)}
