"""The choice among a prompt's completions: how many of those that passed every other filter are trained on.

A kind is one function of the prompt's completions to a reason for each ("" = kept) and one line of KEPT. It is asked after the
filters of single completions and after those without a context are left out, so that what stays could be trained on; a prompt
whose shortest right completion was left out gives its next one. References are no attempts and are not asked about.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.records.grades import GradedRollout, Grades


class Candidate(NamedTuple):
    """A completion that passed every other filter."""

    example_id: str
    sample_index: int
    correct: bool | None
    """None where there is no label."""
    num_tokens: int


def all_of_them(group: Sequence[Candidate], seed: int) -> list[str]:
    """Every one."""
    return [""] * len(group)


def shortest_right(group: Sequence[Candidate], seed: int) -> list[str]:
    """The right one of the fewest tokens, of equally long ones the first; none where none is right (OASIS, arXiv:2609.37915)."""
    right = [candidate for candidate in group if candidate.correct]
    chosen = min(right, key=lambda candidate: (candidate.num_tokens, candidate.sample_index), default=None)

    def reason(candidate: Candidate) -> str:
        if candidate.correct is None:
            return "not_graded"
        return "not_shortest" if candidate.correct else "incorrect"

    return ["" if candidate is chosen else reason(candidate) for candidate in group]


def random(group: Sequence[Candidate], seed: int) -> list[str]:
    """One, drawn by the campaign's seed and the prompt: the same on every machine and after a resume."""
    chosen = min(group, key=lambda candidate: derive_seed("keep", seed, candidate.example_id, candidate.sample_index))
    return ["" if candidate is chosen else "not_drawn" for candidate in group]


KEPT: dict[str, Callable[[Sequence[Candidate], int], list[str]]] = {
    "all": all_of_them,
    "shortest_right": shortest_right,
    "random": random,
}


def keep_per_prompt(rows: Grades, lengths_N: np.ndarray, config: CampaignConfig) -> Grades:
    """The grades after `filter.keep_per_prompt`; the first N rows are sampled completions of so many tokens."""
    if config.filter.keep_per_prompt == "all":
        return rows
    seed = config.seed if config.filter.keep_per_prompt == "random" else 0
    names = ("example_id", "sample_index", "correct", "keep")
    groups: dict[str, list[tuple[int, Candidate]]] = defaultdict(list)
    columns = zip(*(rows.column(name) for name in names), lengths_N.tolist(), strict=False)
    for number, (example_id, sample_index, correct, keep, num_tokens) in enumerate(columns):
        if keep:
            groups[example_id].append((number, Candidate(example_id, sample_index, correct, num_tokens)))
    dropped: dict[int, str] = {}
    for group in groups.values():
        reasons = KEPT[config.filter.keep_per_prompt]([candidate for _, candidate in group], seed)
        dropped |= {number: reason for (number, _), reason in zip(group, reasons, strict=True) if reason}
    return Grades.of(_without(rows, dropped))


def _without(rows: Grades, dropped: dict[int, str]) -> Iterator[GradedRollout]:
    for number, row in enumerate(rows):
        yield replace(row, keep=False, reason=dropped[number], weight=1.0) if number in dropped else row
