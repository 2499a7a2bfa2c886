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

N = tokens, R = tokens of a strip, V = vocabulary, U = end tokens of some side, K = kept entries
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opsd_core.objective.types import LOG_ZERO, TAIL_FLOOR


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


def merged(logprobs_NV: Tensor, own: Sequence[int], stops: Stops) -> Tensor:
    """Log-probabilities of a side that ends with `own`, with its end tokens merged; differentiable, V stays V.

    Columns of end tokens that hold no event become LOG_ZERO.
    """
    columns = [torch.logsumexp(logprobs_NV[:, list(own)], dim=-1)]
    if stops.leftover >= 0:
        columns.append(_leftover(logprobs_NV, own, stops).clamp(min=TAIL_FLOOR))
    union_U, events_E = (torch.tensor(ids, device=logprobs_NV.device) for ids in (stops.union, stops.events))
    return logprobs_NV.index_fill(1, union_U, LOG_ZERO).index_copy(1, events_E, torch.stack(columns, dim=-1))


def _leftover(values_NV: Tensor, own: Sequence[int], stops: Stops) -> Tensor:
    others = stops.others(own)
    return torch.logsumexp(values_NV[:, others], dim=-1) if others else values_NV.new_full((len(values_NV),), LOG_ZERO)


def merge_logits(logits_RV: Tensor, own: Sequence[int], stops: Stops) -> None:
    """The same of logits in place; their normaliser stays what it was. The leftover is floored once they are normalised."""
    columns = [torch.logsumexp(logits_RV[:, list(own)], dim=-1)]
    if stops.leftover >= 0:
        columns.append(_leftover(logits_RV, own, stops))
    logits_RV[:, list(stops.union)] = LOG_ZERO
    logits_RV[:, stops.events] = torch.stack(columns, dim=-1)


def floor_leftover(logprobs_RV: Tensor, stops: Stops) -> Tensor | None:
    """Floor the leftover's log-probabilities in place; returns the rows (R,) that were below, None without a leftover."""
    if stops.leftover < 0:
        return None
    floored_R = logprobs_RV[:, stops.leftover] < TAIL_FLOOR
    logprobs_RV[:, stops.leftover].clamp_(min=TAIL_FLOOR)
    return floored_R


@dataclass
class StudentEnds:
    """A strip's end tokens before they were merged, to give each its share of the event's gradient."""

    stops: Stops
    logits_RU: Tensor
    token_ids_R: Tensor
    token_logits_R: Tensor

    @classmethod
    def merge(cls, logits_RV: Tensor, stops: Stops, token_ids_R: Tensor) -> "StudentEnds":
        """Merge the student's end tokens in its logits, in place, and remember them."""
        token_logits_R = logits_RV.gather(1, token_ids_R[:, None])[:, 0]
        ends = cls(stops, logits_RV[:, list(stops.union)], token_ids_R, token_logits_R)
        merge_logits(logits_RV, stops.student, stops)
        return ends

    def event_ids(self) -> Tensor:
        """The column (R,) of each row's token."""
        return self.stops.event_ids(self.token_ids_R)

    def token_logprobs(self, event_logprobs_R: Tensor, event_logits_R: Tensor) -> Tensor:
        """log S of the tokens themselves, from that of their events; exactly the same where a token is no end token."""
        return event_logprobs_R + (self.token_logits_R - event_logits_R)

    def spread(self, gradients_RV: Tensor, event_gradients_RE: Tensor, cap_of: Callable[[Tensor], Tensor] | None) -> None:
        """Replace the columns of end tokens by their shares of the events' gradients, in place.

        `cap_of`: derivative of the soft cap at scaled logits, None without one.
        """
        own = [index for index, token in enumerate(self.stops.union) if token in self.stops.student]
        others = [index for index in range(len(self.stops.union)) if index not in own]
        for event, members in enumerate((own, others)):
            if not members or event >= event_gradients_RE.shape[1]:
                continue
            shares_RM = torch.softmax(self.logits_RU[:, members], dim=-1) * event_gradients_RE[:, event, None]
            if cap_of is not None:
                shares_RM *= cap_of(self.logits_RU[:, members])
            gradients_RV[:, [self.stops.union[index] for index in members]] = shares_RM
