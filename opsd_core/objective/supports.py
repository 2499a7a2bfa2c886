"""Which entries of the vocabulary the divergence compares: all of them, or K kept ones and a tail bucket.

The bucketed divergence never exceeds the full one (data processing), grows with K and is equal at K = V.
Renormalising inside the K entries instead would be neither, and gives nothing at K = 1.

The bucket tells nothing apart that is in the tail, so the gradient of reverse KL over it is not that over the vocabulary. With
distillation.tail=sampled the last entry is the sampled token instead, where it is not kept (`divergences.reverse_kl_sampled`).

N = tokens, V = vocabulary, K = kept entries
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opsd_core.objective.types import LOG_ZERO, TAIL_FLOOR, TopKTargets

EMPTY_TAIL = 0.1 * LOG_ZERO
"""Stands for the log-sum of no entries; far above LOG_ZERO, so that exp(LOG_ZERO - it) is 0 and not 1."""


def mask_kept(logits_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """A copy of the logits with LOG_ZERO at the kept entries: what is left is the tail."""
    return logits_NV.scatter(-1, ids_NK, LOG_ZERO)


def tail_logsumexp(masked_logits_NV: Tensor) -> Tensor:
    """logsumexp of the entries that were not kept, from masked logits; exact, unlike 1 - sum of the kept."""
    return torch.logsumexp(masked_logits_NV, dim=-1).clamp(min=EMPTY_TAIL)


def top_k_targets(logits_NV: Tensor, k: int, token_ids_N: Tensor | None = None) -> TopKTargets:
    """Record the k largest entries and the exact tail of logits that are already divided by their temperatures."""
    logits_NV = logits_NV.float()
    kept_NK, ids_NK = logits_NV.topk(min(k, logits_NV.shape[-1]), dim=-1)
    normaliser_N = torch.logsumexp(logits_NV, dim=-1)
    tail_N = tail_logsumexp(mask_kept(logits_NV, ids_NK)) - normaliser_N
    sampled_N = None if token_ids_N is None else logits_NV.gather(-1, token_ids_N[:, None])[:, 0] - normaliser_N
    return TopKTargets(
        ids_NK=ids_NK,
        logprobs_NK=kept_NK - normaliser_N[:, None],
        tail_logprob_N=tail_N.masked_fill(tail_N < EMPTY_TAIL / 2, -torch.inf),
        sampled_logprob_N=sampled_N,
    )


class Kept(NamedTuple):
    """Kept entries of the vocabulary; `repeated` marks entries that stand earlier in the row and must not count."""

    ids_NK: Tensor
    repeated_NK: Tensor | None = None

    def holds(self, token_ids_N: Tensor) -> Tensor:
        """bool (N,): the row's token is one of its kept entries."""
        return (self.ids_NK == token_ids_N[:, None]).any(dim=-1)


def largest(logits_NV: Tensor, k: int, always: Sequence[int] = ()) -> Tensor:
    """Ids (N, K) of the k largest entries, and of the entries `always`, which do not count among the k; largest first."""
    if not always:
        return logits_NV.topk(min(k, logits_NV.shape[-1]), dim=-1).indices
    first_NV = logits_NV.index_fill(-1, torch.tensor(always, device=logits_NV.device), torch.inf)
    ids_NK = first_NV.topk(min(k + len(always), logits_NV.shape[-1]), dim=-1).indices
    return ids_NK.gather(-1, logits_NV.gather(-1, ids_NK).argsort(dim=-1, descending=True, stable=True))


def choose_entries(
    student_logits_NV: Tensor, teacher_logits_NV: Tensor, k: int, top_k_of: str, always: Sequence[int] = ()
) -> Kept:
    """The k largest entries of one side, or of both (`union`: repeated ones are marked), and the entries `always`."""
    if top_k_of == "teacher":
        return Kept(largest(teacher_logits_NV, k, always), None)
    if top_k_of == "student":
        return Kept(largest(student_logits_NV, k, always), None)
    both = [largest(side_NV, k, always) for side_NV in (teacher_logits_NV, student_logits_NV)]
    ids_NK = torch.cat(both, dim=-1).sort(dim=-1).values
    repeated_NK = torch.zeros_like(ids_NK, dtype=torch.bool)
    repeated_NK[:, 1:] = ids_NK[:, 1:] == ids_NK[:, :-1]
    return Kept(ids_NK, repeated_NK)


def bucket(kept_logprobs_NK: Tensor, tail_logprob_N: Tensor, repeated_NK: Tensor | None = None) -> Tensor:
    """Kept log-probabilities and the tail's as K + 1 entries; repeated ones count as LOG_ZERO on both sides."""
    return _entries(kept_logprobs_NK, tail_logprob_N.clamp(min=TAIL_FLOOR), repeated_NK)


def with_sampled(
    kept_logprobs_NK: Tensor, sampled_logprob_N: Tensor, inside_N: Tensor, repeated_NK: Tensor | None = None
) -> Tensor:
    """Kept log-probabilities and the sampled token's as K + 1 entries; `inside_N` = it is a kept one, and counts as LOG_ZERO."""
    return _entries(kept_logprobs_NK, sampled_logprob_N.clamp(min=LOG_ZERO).masked_fill(inside_N, LOG_ZERO), repeated_NK)


def _entries(kept_logprobs_NK: Tensor, last_N: Tensor, repeated_NK: Tensor | None) -> Tensor:
    kept_logprobs_NK = kept_logprobs_NK.clamp(min=LOG_ZERO)
    if repeated_NK is not None:
        kept_logprobs_NK = kept_logprobs_NK.masked_fill(repeated_NK, LOG_ZERO)
    return torch.cat([kept_logprobs_NK, last_N[:, None]], dim=-1)
