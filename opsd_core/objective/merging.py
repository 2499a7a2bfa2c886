"""End tokens merged into the columns of their events, and the events' gradients shared out: see `opsd_core.objective.stops`.

N = tokens, R = tokens of a strip, V = vocabulary, U = end tokens of some side, E = events, M = members of one
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opsd_core.objective.stops import Stops
from opsd_core.objective.types import LOG_ZERO, TAIL_FLOOR


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
