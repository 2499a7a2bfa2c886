"""Which prompts are asked again: those without a right completion, until enough have one or the budget is spent.

A round asks every prompt that lacks a right completion for `refill_group` more; it is graded before the next one is decided. With
n prompts that count (an answer is known and the policy answers them itself) and r of them right,

    r >= ceil(share n)                                   enough: nothing is asked any more
    rounds = max_rounds                                  the budget of rounds is spent
    max_completions - completions < refill_group         the budget of completions is spent

Where what is left of the budget does not suffice for all, those are asked whose seeds are smallest. The decision looks at
nothing but grades, seeds and settings, so it is the same on every machine, after a kill, and for any split into shards.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.graders import get_grader
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import Rollout
from opsd_core.rollout.engines.interface import Engine
from opsd_core.rollout.sample import sample_each


class Standing(NamedTuple):
    """Where an iteration's prompts stand after some rounds."""

    prompts: int
    """That count."""
    right: int
    """Of these, with a right completion."""
    rounds: int = 0
    completions: int = 0
    """Of all rounds together."""

    def after(self, right: int, completions: int) -> "Standing":
        """One round later, in which so many more prompts got a right completion."""
        return Standing(self.prompts, self.right + right, self.rounds + 1, self.completions + completions)


def right_or_not(rollouts: Iterable[Rollout], examples: Mapping[str, Example], config: CampaignConfig) -> dict[str, bool]:
    """Of each prompt that counts whether some sampled completion is right; those after the first right one are not graded."""
    grade = get_grader(config.data)
    right: dict[str, bool] = {}
    for rollout in rollouts:
        example = examples[rollout.example_id]
        if rollout.source == "policy" and example.answer and not right.get(example.id):
            right[example.id] = grade(example, rollout.answer_text).correct
    return right


def wanted(prompts: int, share: float) -> int:
    """Prompts that shall have a right completion: ceil(share n); a share that is n prompts but for rounding is n."""
    return min(prompts, math.ceil(share * prompts - 1e-9))


def end_of(standing: Standing, config: CampaignConfig) -> str:
    """Why nothing is asked again: reached, rounds or completions; "" where a round follows."""
    refill, group = config.rollout.refill, config.rollout.refill_group
    if standing.right >= wanted(standing.prompts, refill.share):
        return "reached"
    if standing.rounds >= refill.max_rounds:
        return "rounds"
    left = math.inf if refill.max_completions is None else refill.max_completions - standing.completions
    return "completions" if left < group else ""


def asked_next(lacking: Sequence[str], standing: Standing, iteration: int, config: CampaignConfig) -> list[str]:
    """Of the prompts without a right completion those that the next round asks, in their order; none where none follows."""
    if end_of(standing, config):
        return []
    most = config.rollout.refill.max_completions
    number = len(lacking) if most is None else (most - standing.completions) // config.rollout.refill_group
    if number >= len(lacking):
        return list(lacking)
    seeds = {example_id: derive_seed("refill", config.seed, iteration, standing.rounds, example_id) for example_id in lacking}
    chosen = set(sorted(lacking, key=seeds.__getitem__)[:number])
    return [example_id for example_id in lacking if example_id in chosen]


def refilled(
    engine: Engine, rollouts: Sequence[Rollout], examples: Mapping[str, Example], iteration: int, config: CampaignConfig
) -> tuple[list[Rollout], Standing]:
    """The completions of all rounds, prompt after prompt, and where the prompts stand then: the whole loop in memory.

    `rollouts` are those that every prompt was asked for (`sample_rollouts`). `tasks.stages.refilling` does it with stored shards.
    """
    right, whole, first = right_or_not(rollouts, examples, config), list(rollouts), config.rollout.group_size
    standing, lacking = Standing(len(right), sum(right.values())), [name for name, found in right.items() if not found]
    while ids := asked_next(lacking, standing, iteration, config):
        samples = range(first, first + config.rollout.refill_group)
        more, _ = engine.checked(sample_each(engine, [examples[name] for name in ids], samples, iteration, config), config)
        right = right_or_not(more, examples, config)
        lacking, first = [name for name in ids if not right[name]], samples.stop
        standing = standing.after(sum(right.values()), len(more))
        whole += more
    places = {name: place for place, name in enumerate(dict.fromkeys(rollout.example_id for rollout in rollouts))}
    return sorted(whole, key=lambda rollout: (places[rollout.example_id], rollout.sample_index)), standing
