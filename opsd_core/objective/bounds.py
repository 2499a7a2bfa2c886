"""Four ways to keep single tokens from dominating a step. They are different things; see docs/objective.md.

    ratio_clip      acts on the target    log T moves to within tau of log S
    entry_clip      acts on each entry    min(l_v, tau): can reverse the gradient, for reproduction only
    token_clip      acts on each token    min(D, tau): no gradient above tau
    token_reweight  acts on each token    D * min(1, tau / |D|), the factor held fixed: keeps the direction

N = tokens, E = entries
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from opsd_core.objective.types import Entries


class TokenBound(NamedTuple):
    """A bounded value per token and what its gradient is multiplied with."""

    value_N: Tensor
    gradient_factor_N: Tensor


def ratio_clip(student_logprobs_NE: Tensor, teacher_logprobs_NE: Tensor, threshold: float) -> Tensor:
    """t' = s + clip(t - s, -tau, tau), held fixed: a target at most tau nats from the student, entry by entry.

    For reverse KL and the sampled token this clips the advantage log T - log S; for forward KL it limits the
    importance weight T / S to e^tau. Every divergence pulls in the same order of entries as without it.

    Source: REOPOLD's reward floor, arXiv:2603.11137, made two-sided.
    """
    student_logprobs_NE = student_logprobs_NE.detach()
    return student_logprobs_NE + (teacher_logprobs_NE - student_logprobs_NE).clamp(-threshold, threshold)


def entry_clip(entries: Entries, threshold: float) -> Entries:
    """min(l_v, tau) per vocabulary entry; the sum is not a divergence, may be negative, and its gradient may reverse.

    With U the unclipped entries, forward KL's gradient is S_v T(U) - T_v 1[v in U]: a clipped entry, which is where
    the teacher wants most more mass, is pushed down.

    Source: OPSD v3 (2601.18734), `jsd_token_clip`.
    """
    clipped_NE = entries.terms_NE > threshold
    return Entries(entries.terms_NE.clamp(max=threshold), entries.slopes_NE.masked_fill(clipped_NE, 0.0))


def unbounded(divergence_N: Tensor, threshold: float) -> TokenBound:
    """The divergence itself."""
    return TokenBound(divergence_N, torch.ones_like(divergence_N))


def token_clip(divergence_N: Tensor, threshold: float) -> TokenBound:
    """min(D, tau): tokens above tau give no gradient. Source: verl `loss_max_clamp`."""
    return TokenBound(divergence_N.clamp(max=threshold), (divergence_N <= threshold).to(divergence_N.dtype))


def token_reweight(divergence_N: Tensor, threshold: float) -> TokenBound:
    """D * min(1, tau / |D|), the factor held fixed: each token's gradient keeps its direction, not its size."""
    factor_N = threshold / divergence_N.abs().clamp(min=threshold)
    return TokenBound(divergence_N * factor_N, factor_N)


class Bound(NamedTuple):
    """One bound: what it does to tokens, to entries, and to the target; most act on one of the three."""

    of_token: Callable[[Tensor, float], TokenBound] = unbounded
    of_entries: Callable[[Entries, float], Entries] | None = None
    of_target: Callable[[Tensor, Tensor, float], Tensor] | None = None
    """Student's and teacher's log-probabilities and tau -> the target that is compared with."""


BOUNDS: dict[str, Bound] = {
    "none": Bound(),
    "token_reweight": Bound(token_reweight),
    "token_clip": Bound(token_clip),
    "entry_clip": Bound(of_entries=entry_clip),
    "ratio_clip": Bound(of_target=ratio_clip),
}
"""One entry per name in `opsd_core.config.kinds.choices.BOUNDS`."""


def bounded_entries(
    divergence: Callable[[Tensor, Tensor], Entries],
    student_logprobs_NE: Tensor,
    teacher_logprobs_NE: Tensor,
    bound: str,
    threshold: float,
) -> tuple[Tensor, Entries]:
    """Unbounded terms, and terms and slopes after a bound that acts on the target or on entries."""
    _, of_entries, of_target = BOUNDS[bound]
    bounded = entries = divergence(student_logprobs_NE, teacher_logprobs_NE)
    if of_target:
        bounded = divergence(student_logprobs_NE, of_target(student_logprobs_NE, teacher_logprobs_NE, threshold))
    if of_entries:
        bounded = of_entries(bounded, threshold)
    return entries.terms_NE, bounded
