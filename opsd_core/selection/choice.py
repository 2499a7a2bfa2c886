"""Which prompts an iteration is trained on: seeded passes over the training split without a gap, or by difficulty."""

from collections.abc import Sequence

import torch

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.records.examples import Example
from opsd_core.selection.curriculum import Counts, draw_by_difficulty


def choose_prompts(
    train: Sequence[Example], iteration: int, config: CampaignConfig, counts: Counts | None = None
) -> list[Example]:
    """The prompts of one iteration, at most rollout.num_prompts, none of them twice; `counts` are the pass rates so far.

    DataError when there is nothing to choose from.
    """
    if not train:
        raise DataError("the training split is empty; raise data.size or lower the held-out fractions.")
    wanted = config.rollout.num_prompts
    if config.curriculum.sampling == "difficulty":
        by_id = {example.id: example for example in train}
        ids = draw_by_difficulty(list(by_id), counts or {}, wanted, config.curriculum, config.seed, iteration)
        return [by_id[example_id] for example_id in ids]
    return next_of_passes(train, iteration * wanted, wanted, config.seed)


def next_of_passes(train: Sequence[Example], position: int, wanted: int, seed: int) -> list[Example]:
    """Items `position` to `position + wanted` of endless passes over `train`, each pass in an order of its own."""
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
