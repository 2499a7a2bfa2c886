"""Stop events: the tokens that end a completion, compared as one event however each side writes it.

E_S = tokens that end the student's completions, E_T = those that end the teacher's, U = every token that ends some side.
Both sides' columns of U are replaced by

    stop       log sum_{v in E_S} S_v   against   log sum_{v in E_T} T_v
    leftover   log sum_{U - E_S} S_v    against   log sum_{U - E_T} T_v, both at least TAIL_FLOOR; only where the sets differ

Leftover is a side's mass on tokens that end another side but not itself: to write one is to go on, so it never counts as
having stopped. Both sides remain distributions, equal ones remain equal, and joining outcomes never raises a divergence
(data processing). The event's gradient g reaches each of its tokens u by its share: g exp(z_u - log sum exp z).

Source: YouAreSpecialToMe/SimOPD (`eos_gather`, `n2_eos_battery`), which compares log S(E_S) with log T(E_T) and counts the
student's mass on tokens of E_T alone as going on; arXiv:2609.20511.

`opsd_core.objective.merging` does it. N = tokens
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stops:
    """Which tokens end each side's completions, and the two columns that hold the events; made by `of`."""

    student: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    """One set for each model that teaches."""
    union: tuple[int, ...]
    leftover: int
    """Column of the mass on other sides' end tokens; -1 where every side ends with the same tokens."""

    @classmethod
    def of(cls, student: Collection[int], members: Sequence[Collection[int]]) -> "Stops | None":
        """None where at most one token ends any side: it is its own event, and there is nothing to merge."""
        sides = [tuple(sorted(set(side))) for side in (student, *members)]
        union = tuple(sorted({token for side in sides for token in side}))
        if len(union) < 2 or not all(sides):
            return None
        leftover = -1 if all(side == union for side in sides) else min(set(union) - {sides[0][0]})
        return cls(sides[0], tuple(sides[1:]), union, leftover)

    def taught_by(self, members: Sequence[int]) -> "Stops":
        """The same events where only some of the models teach."""
        return replace(self, members=tuple(self.members[member] for member in members))

    @property
    def entry(self) -> int:
        """Column of the stop event: the student's first end token."""
        return self.student[0]

    @property
    def events(self) -> list[int]:
        """Columns of the events: stop, and leftover where there is one."""
        return [self.entry] if self.leftover < 0 else [self.entry, self.leftover]

    @property
    def layout(self) -> tuple[int, ...]:
        """What a stored target must agree with: the events' columns, then every other end token, whose column is empty."""
        return (self.entry, self.leftover, *(token for token in self.union if token not in self.events))

    def others(self, own: Collection[int]) -> list[int]:
        """End tokens of other sides that do not end a side with the end tokens `own`."""
        return [token for token in self.union if token not in own]

    def event_ids(self, token_ids_N: Tensor) -> Tensor:
        """The column of each of the student's tokens: its event's for an end token, else its own."""
        events_N = token_ids_N
        for token in self.union:
            column = self.entry if token in self.student else self.leftover
            events_N = torch.where(token_ids_N == token, column, events_N)
        return events_N
