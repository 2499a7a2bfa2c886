"""Where the sequential test stopped, why, and what that saved: part of a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FUTILE = 0.02
"""Chance of a promotion under which an evaluation stops, see `opsd_core.judgement.sequential.chance_of_promotion`."""

_WHY = {
    "promote": "the evidence was enough",
    "refuse": "no answers to the remaining items could have made it enough",
    "futile": f"if the remaining items went as these, a promotion had less than {FUTILE:.0%} chance",
    "undecided": "the evaluation ended there although the verdict was open",
}


Outcome = Literal["promote", "refuse", "futile", "undecided"]


@dataclass(frozen=True)
class Look:
    """What is known after some of the items.

    promote    the p-value has reached the level
    refuse     no answer to the remaining items can bring it there, or none remains
    futile     it could, with less than FUTILE chance
    undecided  more items are needed
    """

    outcome: Outcome
    num_answered: int
    num_items: int
    e_value: float
    """Largest wealth so far times BET; the bets alone promote at 1 / level."""
    p_value: float
    """Valid whenever one stops, as long as the number of items was fixed before."""
    chance: float
    """Of a promotion if the remaining items go as those so far; 0 or 1 once decided."""


@dataclass(frozen=True)
class Stopping:
    """Numbers of the last look, which a verdict keeps."""

    outcome: str
    """promote, refuse, futile or undecided, as `Look` has it."""
    num_answered: int
    num_planned: int
    e_value: float
    """Evidence of the bets; alone they promote at 1 / level."""
    e_needed: float
    """1 / level."""
    tokens_saved: int
    """That the candidate would have written for the remaining items, at its mean length."""

    def in_words(self) -> str:
        """One sentence of the verdict."""
        if self.num_answered == self.num_planned:
            return f"All {self.num_planned} items were needed."
        return (
            f"Stopped after {self.num_answered} of {self.num_planned} items: {_WHY[self.outcome]}. About {self.tokens_saved:,} "
            "tokens of the candidate were not needed."
        )

    def interval_note(self) -> list[str]:
        """What has to be said beside an interval of items whose number the answers themselves decided."""
        return [
            "",
            f"Evidence of the bets: e = {self.e_value:.4g}; alone it promotes from {self.e_needed:.4g} on. p holds although the "
            "test may stop at any item. Accuracies, guard rails and interval are those of the answered items, and the interval "
            "does not allow for stopping: a gain that stopped the test early is on average shown too large.",
        ]

    def metrics(self, num_items: int) -> dict[str, float]:
        """For MLflow."""
        return {
            "gate/items_used": float(num_items),
            "gate/items_planned": float(self.num_planned),
            "gate/e_value": self.e_value,
            "gate/tokens_saved": float(self.tokens_saved),
        }


def stopping(found: Look, level: float, candidate_tokens: Sequence[int]) -> Stopping:
    """From the last look, the level, and the lengths of all of the candidate's completions."""
    remaining = found.num_items - found.num_answered
    saved = round(sum(candidate_tokens) * remaining / max(1, found.num_answered))
    return Stopping(found.outcome, found.num_answered, found.num_items, found.e_value, 1.0 / level, saved)
