"""The training prompts of an iteration: which are chosen, and what their grades teach about them."""

from functools import partial
from pathlib import Path
from typing import Any

from opsd_core.records.examples import write_examples
from opsd_core.records.sums import mean_of_parts
from opsd_core.selection import choice
from opsd_core.selection.curriculum import Counts, CurriculumState, next_state, read_state, write_state
from tasks.context import local, produce
from tasks.loaded import grades_of, rollouts_of, stored_examples
from tasks.refs import CurriculumRef, GradedRef, Iteration, PromptSet, ShardRef
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task


@task(name="choose-prompts", task_run_name="choose-prompts-it{iteration.number}", **STAGE)
def choose_prompts(iteration: Iteration) -> PromptSet:
    """Draw the iteration's training prompts: seeded passes over the training split without a gap, or by difficulty.

    They stay cut into the shards that they were first cut into, so that another execution.num_shards continues the work.
    """
    config, curriculum = iteration.config, iteration.curriculum
    identity = {
        "data": iteration.campaign.data.identity,
        "num_prompts": config.rollout.num_prompts,
        "seed": config.seed,
        "iteration": iteration.number,
    }
    if config.curriculum.sampling == "difficulty":
        weights = ("easy_power", "hard_power", "min_pass_rate", "max_pass_rate")
        identity["difficulty"] = config.curriculum.model_dump(include=set(weights))
        identity["pass_rates"] = curriculum.digest if curriculum else None
    artifact, _ = produce("prompts", identity, partial(_draw, iteration))
    return PromptSet(uri=artifact.uri, **artifact.summary["counts"])


def _draw(iteration: Iteration, folder: Path) -> dict[str, Any]:
    config, train = iteration.config, stored_examples(iteration.campaign.data, "train")
    chosen = choice.choose_prompts(train, iteration.number, config, known_counts(iteration.curriculum))
    num_shards = min(config.execution.num_shards, len(chosen))
    for shard in range(num_shards):
        write_examples(folder / f"shard-{shard:04d}.parquet", chosen[shard::num_shards])
    return {"counts": {"num_prompts": len(chosen), "num_shards": num_shards}}


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
    grades, rollouts = grades_of(graded), rollouts_of(*shards)
    entropy = mean_of_parts(rollouts.entropies(), int(rollouts.lengths().sum()))
    judged = zip(grades.column("example_id"), grades.column("correct"), strict=True)
    state = next_state(before, judged, entropy, iteration.campaign.config)
    write_state(folder, state)
    return {"max_completion_length": state.max_completion_length, "num_prompts": len(state.counts)}
