"""Divergences between a student S and a teacher T, entry by entry.

Each function takes log-probabilities s = log S and t = log T of the same entries (whole vocabulary, or kept entries
and tail) and returns

    terms   l_v            the divergence of a token is sum_v l_v, in nats
    slopes  dl_v / ds_v    with t constant

From the slopes the gradient with respect to the student's logits z is  slope_v - S_v * sum_u slope_u.
Log-probabilities must be finite: callers replace -inf by LOG_ZERO, so that 0 * log 0 is 0.

N = tokens, E = entries
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from opsd_core.config.kinds.divergences import DIVERGENCE_KINDS
from opsd_core.config.method import DistillationConfig
from opsd_core.named import named
from opsd_core.objective.types import Entries


def forward_kl(student_logprobs_NE: Tensor, teacher_logprobs_NE: Tensor) -> Entries:
    """KL(T || S) = sum_v T_v (log T_v - log S_v): covers the teacher's modes.

    Source: Hinton et al. 2015, arXiv:1503.02531; default of OPSD v3, arXiv:2601.18734.
    """
    teacher_NE = teacher_logprobs_NE.exp()
    return Entries(teacher_NE * (teacher_logprobs_NE - student_logprobs_NE), -teacher_NE)


def reverse_kl(student_logprobs_NE: Tensor, teacher_logprobs_NE: Tensor) -> Entries:
    """KL(S || T) = sum_v S_v (log S_v - log T_v): seeks one of the teacher's modes.

    Source: Gu et al. 2024 (MiniLLM), arXiv:2306.08543, token level.
    """
    student_NE = student_logprobs_NE.exp()
    terms_NE = student_NE * (student_logprobs_NE - teacher_logprobs_NE)
    return Entries(terms_NE, terms_NE + student_NE)


def reverse_kl_sampled(student_logprobs_NE: Tensor, teacher_logprobs_NE: Tensor) -> Entries:
    """KL(S || T) of kept entries K and, as the last entry, the sampled token y where it is none of them (else LOG_ZERO).

        value     sum_{v in K} S_v r_v + 1[y not in K] r_y,      r = log S - log T held fixed
        gradient  sum_{v in K} r_v dS_v + 1[y not in K] r_y dlog S_y

    For y drawn from S its mean is the gradient over the whole vocabulary, sum_v r_v dS_v: outside K, E[r_y dlog S_y] =
    sum_v S_v r_v dlog S_v = sum_v r_v dS_v, and sum_v S_v dr_v = sum_v dS_v = 0 over the vocabulary, though not over K alone. The
    value is an estimate and may be negative.

    Source: TT-OPD, arXiv:2609.34447, known from a summary; the identity is checked here.
    """
    ratios_NE = (student_logprobs_NE - teacher_logprobs_NE).detach()
    kept_NK, last_N1 = student_logprobs_NE[:, :-1].exp(), student_logprobs_NE[:, -1:]
    carrier_NE = torch.cat([kept_NK, 1.0 + (last_N1 - last_N1.detach())], dim=-1)
    return Entries(carrier_NE * ratios_NE, carrier_NE.detach() * ratios_NE)


def log_over_mixture(
    student_logprobs_NE: Tensor, teacher_logprobs_NE: Tensor, teacher_share: float
) -> tuple[Tensor, Tensor]:
    """log S/M and log T/M for M = share * T + (1 - share) * S, exactly 0 where S = T.

        d = t - s;  u = log1p(c * expm1(-|d|)),  c = 1 - share if d > 0 else share
        log M = max(s, t) + u

    logaddexp would lose the difference of two large numbers when S and T nearly agree; and |d| and max written as
    such would have the wrong derivative where they agree exactly. In float32 the result is good to 6e-8 / share.
    """
    difference_NE = teacher_logprobs_NE - student_logprobs_NE
    teacher_is_larger_NE = difference_NE > 0
    shares = difference_NE.new_tensor([1.0 - teacher_share, teacher_share])
    share_of_smaller_NE = torch.where(teacher_is_larger_NE, shares[0], shares[1])
    u_NE = torch.expm1(torch.where(teacher_is_larger_NE, -difference_NE, difference_NE))
    u_NE = torch.log1p(share_of_smaller_NE * u_NE)
    above_NE = difference_NE.masked_fill(~teacher_is_larger_NE, 0.0)
    return -above_NE - u_NE, difference_NE - above_NE - u_NE


def jsd(
    student_logprobs_NE: Tensor, teacher_logprobs_NE: Tensor, beta: float = 0.5, normalise: bool = False
) -> Entries:
    """Generalised Jensen-Shannon divergence; beta = 0 is forward KL and beta = 1 reverse KL.

        M     = beta T + (1 - beta) S
        JSD   = beta KL(T || M) + (1 - beta) KL(S || M)          <= log 2 at beta = 0.5
        slope = (1 - beta) S log(S / M)

    JSD itself goes to 0 at both ends: JSD / beta -> forward KL, JSD / (1 - beta) -> reverse KL. The loss scale
    therefore jumps between beta = 0 and beta = 0.01, unless `normalise` divides by beta (1 - beta).

    Raises ValueError for beta outside [0, 1]. Source: Agarwal et al. 2024 (GKD), eq. 1, arXiv:2306.13649.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"distillation.beta={beta}: the mixture weight must be in [0, 1].")
    if beta == 0.0:
        return forward_kl(student_logprobs_NE, teacher_logprobs_NE)
    if beta == 1.0:
        return reverse_kl(student_logprobs_NE, teacher_logprobs_NE)
    scale = 1.0 / (beta * (1.0 - beta)) if normalise else 1.0
    log_s_over_m_NE, log_t_over_m_NE = log_over_mixture(student_logprobs_NE, teacher_logprobs_NE, beta)
    slopes_NE = student_logprobs_NE.exp() * log_s_over_m_NE * ((1.0 - beta) * scale)
    return Entries(teacher_logprobs_NE.exp() * log_t_over_m_NE * (beta * scale) + slopes_NE, slopes_NE)


def skew_kl(student_logprobs_NE: Tensor, teacher_logprobs_NE: Tensor, skew: float = 0.1) -> Entries:
    """KL(T || M) with M = skew * T + (1 - skew) * S: forward KL whose terms stay below T log(1 / skew).

        slope = -(1 - skew) T S / M

    Source: Ko et al. 2024 (DistiLLM), arXiv:2402.03898.
    """
    if skew == 0.0:
        return forward_kl(student_logprobs_NE, teacher_logprobs_NE)
    log_s_over_m_NE, log_t_over_m_NE = log_over_mixture(student_logprobs_NE, teacher_logprobs_NE, skew)
    teacher_NE = teacher_logprobs_NE.exp()
    return Entries(teacher_NE * log_t_over_m_NE, teacher_NE * log_s_over_m_NE.exp() * -(1.0 - skew))


def entropy_mix(student_logprobs_NE: Tensor, teacher_logprobs_NE: Tensor, forward_share_N1: Tensor) -> Entries:
    """g * KL(T || S) + (1 - g) * KL(S || T) with one g per token: see `forward_share`."""
    forward, reverse = (kl(student_logprobs_NE, teacher_logprobs_NE) for kl in (forward_kl, reverse_kl))
    return Entries(
        torch.lerp(reverse.terms_NE, forward.terms_NE, forward_share_N1),
        torch.lerp(reverse.slopes_NE, forward.slopes_NE, forward_share_N1),
    )


def forward_share(teacher_entropy_N: Tensor, threshold: float, width: float) -> Tensor:
    """g = sigmoid((H_T - threshold) / width): forward KL where the teacher hesitates, reverse KL where it is sure.

    Source: EOPD, arXiv:2603.07079, with its step 1[H_T > 0.8] made smooth; there forward KL is added to, here
    exchanged for, reverse KL.
    """
    return torch.sigmoid((teacher_entropy_N - threshold) / width)


def sampled_token(student_logprobs_NE: Tensor, teacher_logprobs_NE: Tensor) -> Entries:
    """Policy gradient on the sampled token: value log S - log T, gradient -A d log S with A = log T - log S held fixed.

    The value is the one-sample estimate of KL(S || T) and may be negative. Its own derivative, d log S without A,
    has expectation 0 under S and would teach nothing. The only entry is the sampled token.

    Source: OPSD variant 2, arXiv:2601.18734; Thinking Machines, On-Policy Distillation (2025).
    """
    negative_advantage_NE = (student_logprobs_NE - teacher_logprobs_NE).detach()
    surrogate_NE = negative_advantage_NE * student_logprobs_NE
    return Entries(negative_advantage_NE + (surrogate_NE - surrogate_NE.detach()), negative_advantage_NE)


class Divergence(NamedTuple):
    """A divergence and where its parameters come from."""

    function: Callable[..., Entries]
    parameters: Callable[[DistillationConfig, Tensor], dict[str, Any]] = lambda config, teacher_entropy_N: {}
    """Keyword arguments of `function` beside the two sides, from the settings and the teacher's entropy (N,)."""


def _forward_share_of(config: DistillationConfig, teacher_entropy_N: Tensor) -> dict[str, Tensor]:
    share_N = forward_share(teacher_entropy_N, config.entropy_threshold, config.entropy_width)
    return {"forward_share_N1": share_N[:, None]}


JSD = Divergence(jsd, lambda config, _: {"beta": config.beta, "normalise": config.normalise_beta})
SKEW_KL = Divergence(skew_kl, lambda config, _: {"skew": config.skew})
ENTROPY_MIX = Divergence(entropy_mix, _forward_share_of)


def _divergence(place: str) -> Divergence:
    found = named(place)
    return found if isinstance(found, Divergence) else Divergence(found)


DIVERGENCES = {name: _divergence(kind.function) for name, kind in DIVERGENCE_KINDS.items() if kind.function}
"""Those of `opsd_core.config.kinds.divergences` that compare with a teacher."""


def configured(config: DistillationConfig, teacher_entropy_N: Tensor) -> Callable[[Tensor, Tensor], Entries]:
    """The divergence that `config` names, as a function of (student_logprobs_NE, teacher_logprobs_NE)."""
    if config.samples_tail:
        return named(config.kind.sampled_tail)
    function, parameters = DIVERGENCES[config.divergence]
    return partial(function, **parameters(config, teacher_entropy_N))
