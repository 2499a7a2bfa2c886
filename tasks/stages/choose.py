"""Choose the training prompts of an iteration."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect import task

from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.records.examples import Example, write_examples
from opsd_core.selection.curriculum import draw_by_difficulty
from tasks.context import produce, stored_examples
from tasks.refs import Campaign, CurriculumRef, PromptSet
from tasks.runtime.retries import STAGE
from tasks.stages.curriculum import known_counts


@task(name="choose-prompts", task_run_name="choose-prompts-it{iteration}", **STAGE)
def choose_prompts(campaign: Campaign, iteration: int, curriculum: CurriculumRef | None = None) -> PromptSet:
    """Draw the iteration's training prompts: seeded passes over the training split without a gap, or by difficulty."""
    config = campaign.config
    identity = {
        "data": campaign.data_uri.rsplit("/", 2)[-2],
        "num_prompts": config.rollout.num_prompts,
        "num_shards": config.rollout.num_shards,
        "seed": config.seed,
        "iteration": iteration,
    }
    if config.curriculum.sampling == "difficulty":
        weights = ("easy_power", "hard_power", "min_pass_rate", "max_pass_rate")
        identity["difficulty"] = config.curriculum.model_dump(include=set(weights))
        identity["pass_rates"] = curriculum.digest if curriculum else None
    artifact, _ = produce("prompts", identity, partial(_draw_prompts, campaign, iteration, curriculum))
    return PromptSet(iteration=iteration, uri=artifact.uri, **artifact.summary["counts"])


def _draw_prompts(campaign: Campaign, iteration: int, curriculum: CurriculumRef | None, folder: Path) -> dict[str, Any]:
    config = campaign.config
    train = stored_examples(campaign.data_uri, "train")
    if not train:
        raise DataError("the training split is empty; raise data.size or lower the held-out fractions.")
    if config.curriculum.sampling == "difficulty":
        counts, by_id = known_counts(curriculum), {example.id: example for example in train}
        ids = draw_by_difficulty(
            list(by_id), counts, config.rollout.num_prompts, config.curriculum, config.seed, iteration
        )
        chosen = [by_id[example_id] for example_id in ids]
    else:
        chosen = _next_of_passes(train, iteration * config.rollout.num_prompts, config.rollout.num_prompts, config.seed)
    num_shards = min(config.rollout.num_shards, len(chosen))
    for shard in range(num_shards):
        write_examples(folder / f"shard-{shard:04d}.parquet", chosen[shard::num_shards])
    return {"counts": {"num_prompts": len(chosen), "num_shards": num_shards}}


def _next_of_passes(train: list[Example], position: int, wanted: int, seed: int) -> list[Example]:
    chosen: list[Example] = []
    while len(chosen) < wanted:
        epoch, offset = divmod(position, len(train))
        generator = torch.Generator().manual_seed(derive_seed("prompts", seed, epoch))
        order = torch.randperm(len(train), generator=generator).tolist()
        part = order[offset : offset + wanted - len(chosen)]
        chosen.extend(train[index] for index in part)
        position += len(part)
    # A pass boundary inside an iteration can repeat an item; a second completion of it would be the same rollout.
    return list({example.id: example for example in chosen}.values())
