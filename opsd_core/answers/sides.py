"""The sides of a comparison: what each model answered to the same held-out items."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from opsd_core.errors import DataError
from opsd_core.judgement.statistics import mcnemar, paired_interval, wilson
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome

KINDS = ("wrong→right", "right→wrong", "right→right", "wrong→wrong")


@dataclass(frozen=True)
class Side:
    """One model and the outcomes of its evaluation."""

    name: str
    outcomes: Sequence[ItemOutcome]


@dataclass(frozen=True)
class Item:
    """One held-out item with one answer of every side, and each side's share of right samples where there are some."""

    example: Example
    answers: tuple[ItemOutcome, ...]
    pass_rate: float | None
    """Of the first side, over its sampled completions."""

    def kind(self, after: int) -> str:
        """What became of it between the first side and side `after`."""
        before, now = self.answers[0].correct, self.answers[after].correct
        return f"{'right' if before else 'wrong'}→{'right' if now else 'wrong'}"


def items_of(examples: Sequence[Example], sides: Sequence[Side]) -> list[Item]:
    """The items that every side answered, by id: the greedy answer, or the first sample where nothing is greedy.

    DataError when there are fewer than two sides or no common item.
    """
    if len(sides) < 2:
        raise DataError(
            f"answers: {len(sides)} evaluation(s) given; a comparison needs two. Name a version to compare with."
        )
    answers = [_one_each(side.outcomes) for side in sides]
    rates = _pass_rates(sides[0].outcomes)
    known = {example.id: example for example in examples}
    common = sorted(set(known).intersection(*answers))
    if not common:
        raise DataError(
            f"answers: {' and '.join(side.name for side in sides)} have no held-out item in common, or the data set that they "
            "were measured on is another one. Compare versions of campaigns on the same data."
        )
    return [Item(known[key], tuple(side[key] for side in answers), rates.get(key)) for key in common]


class Compared(NamedTuple):
    """Some items before and after."""

    kinds: dict[str, int]
    before: list[float]
    """[share that is right, low, high]: Wilson's interval, as the next."""
    after: list[float]
    difference: list[float]
    """[mean, low, high]: Newcombe's paired interval."""
    p_rises: float
    """Exact one-sided McNemar test."""
    p_falls: float


def compared(items: Sequence[Item], after: int) -> Compared:
    """The first side against side `after`."""
    count, number = Counter(item.kind(after) for item in items), len(items)
    wins, losses, both = (count[kind] for kind in KINDS[:3])
    shares = ([right / number if number else 0.0, *wilson(right, number)] for right in (both + losses, both + wins))
    difference = list(paired_interval(wins, losses, both, number))
    return Compared({kind: count[kind] for kind in KINDS}, *shares, difference, mcnemar(wins, losses), mcnemar(losses, wins))


def _one_each(outcomes: Sequence[ItemOutcome]) -> dict[str, ItemOutcome]:
    chosen: dict[str, ItemOutcome] = {}
    for outcome in sorted(outcomes, key=lambda o: (o.mode != "greedy", o.sample_index)):
        chosen.setdefault(outcome.example_id, outcome)
    return chosen


def _pass_rates(outcomes: Sequence[ItemOutcome]) -> dict[str, float]:
    votes: dict[str, list[bool]] = {}
    for outcome in outcomes:
        if outcome.mode == "sampled":
            votes.setdefault(outcome.example_id, []).append(outcome.correct)
    return {key: sum(values) / len(values) for key, values in votes.items() if len(values) > 1}
