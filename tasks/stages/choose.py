"""Choose the training prompts of an iteration."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import task

from opsd_core.records.examples import write_examples
from opsd_core.selection import choice
from tasks.context import produce, stored_examples
from tasks.refs import Iteration, PromptSet
from tasks.runtime.retries import STAGE
from tasks.stages.curriculum import known_counts


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
