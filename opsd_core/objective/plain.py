"""The objective over whole logits, differentiated by autograd: for small inputs, and to test the fused path.

N = tokens, V = vocabulary, H = hidden size, K = kept entries, E = compared entries (V, or K + 1 with the tail, or 1)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from opsd_core.config.method import DistillationConfig
from opsd_core.objective.bounds import BOUNDS, bounded_entries
from opsd_core.objective.divergences import configured
from opsd_core.objective.merging import merged
from opsd_core.objective.products import autocast_dtype, linear
from opsd_core.objective.supports import Kept, bucket, choose_entries, mask_kept, tail_logsumexp, with_sampled
from opsd_core.objective.types import LOG_ZERO, FullTargets, Head, HiddenTargets, ObjectiveResult, TopKTargets

ROWS_PER_TILE = 1024
"""Positions that are projected to the vocabulary at a time where whole logits are not needed together."""


class Compared(NamedTuple):
    """Both sides' log-probabilities on the same entries, and what is logged of the teacher."""

    student_logprobs_NE: Tensor
    teacher_logprobs_NE: Tensor
    teacher_entropy_N: Tensor
    teacher_logprobs_N: Tensor | None


def project(hidden_NH: Tensor, head: Head, temperature: float) -> Tensor:
    """Full-vocabulary log-probabilities (N, V) of hidden states, in the working dtype; -inf becomes LOG_ZERO."""
    autocast = autocast_dtype(hidden_NH.device)
    with torch.autocast(hidden_NH.device.type, enabled=False):
        hidden_NH, head = head.unscaled(hidden_NH)
        logits_NV = linear(hidden_NH, head.weight_VH, autocast)
        if head.bias_V is not None:
            logits_NV = logits_NV + head.bias_V.to(logits_NV.dtype)
        if head.softcap is not None:
            logits_NV = head.softcap * torch.tanh(logits_NV / head.softcap)
        return torch.log_softmax(logits_NV / temperature, dim=-1).clamp(min=LOG_ZERO)


def entropy(logprobs_NE: Tensor) -> Tensor:
    """-sum_v p_v log p_v, in nats."""
    return -(logprobs_NE.exp() * logprobs_NE).sum(dim=-1)


def _compare_recorded(
    student_NV: Tensor, targets: TopKTargets, token_ids_N: Tensor, config: DistillationConfig
) -> Compared:
    teacher_NE = bucket(targets.logprobs_NK.to(student_NV.dtype), targets.tail_logprob_N.to(student_NV.dtype))
    sampled_N = targets.sampled_logprob_N
    if config.kind.sampled_only:
        student_NE = student_NV.gather(-1, token_ids_N[:, None])
        return Compared(student_NE, sampled_N.to(student_NV.dtype)[:, None], entropy(teacher_NE), sampled_N)
    if config.samples_tail:
        inside_N = Kept(targets.ids_NK).holds(token_ids_N)
        both = [(student_NV.gather(-1, targets.ids_NK), student_NV.gather(-1, token_ids_N[:, None])[:, 0])]
        both += [(targets.logprobs_NK.to(student_NV.dtype), sampled_N.to(student_NV.dtype))]
        student_NE, sampled_NE = (with_sampled(*side, inside_N) for side in both)
        return Compared(student_NE, sampled_NE, entropy(teacher_NE), sampled_N)
    return Compared(_student_buckets(student_NV, targets.ids_NK), teacher_NE, entropy(teacher_NE), sampled_N)


def _student_buckets(student_NV: Tensor, ids_NK: Tensor, repeated_NK: Tensor | None = None) -> Tensor:
    return bucket(student_NV.gather(-1, ids_NK), tail_logsumexp(mask_kept(student_NV, ids_NK)), repeated_NK)


def _compare_online(
    student_NV: Tensor, targets: HiddenTargets | FullTargets, token_ids_N: Tensor, config: DistillationConfig
) -> Compared:
    stops = targets.stops
    with torch.no_grad():
        if isinstance(targets, FullTargets):
            teacher_NV = targets.logprobs_NV.clamp(min=LOG_ZERO)
        else:
            teacher_NV = project(targets.hidden_NH, targets.head, targets.temperature * config.temperature)
        teacher_NV = teacher_NV.to(student_NV.dtype)
        if stops and isinstance(targets, HiddenTargets):
            teacher_NV = merged(teacher_NV, stops.members[0], stops)
        entropy_N = entropy(teacher_NV)
        sampled_N1 = teacher_NV.gather(-1, token_ids_N[:, None])
    if config.kind.sampled_only:
        return Compared(student_NV.gather(-1, token_ids_N[:, None]), sampled_N1, entropy_N, sampled_N1[:, 0])
    if config.top_k_of == "full":
        return Compared(student_NV, teacher_NV, entropy_N, sampled_N1[:, 0])
    always = stops.events if stops else ()
    kept = choose_entries(student_NV.detach(), teacher_NV, config.top_k, config.top_k_of, always)
    if config.samples_tail:
        inside_N, token_ids_N1 = kept.holds(token_ids_N), token_ids_N[:, None]
        student_NE, teacher_NE = (
            with_sampled(side.gather(-1, kept.ids_NK), side.gather(-1, token_ids_N1)[:, 0], inside_N, kept.repeated_NK)
            for side in (student_NV, teacher_NV)
        )
        return Compared(student_NE, teacher_NE, entropy_N, sampled_N1[:, 0])
    student_NE, teacher_NE = (_student_buckets(side_NV, *kept) for side_NV in (student_NV, teacher_NV))
    return Compared(student_NE, teacher_NE, entropy_N, sampled_N1[:, 0])


def plain_loss(
    student_hidden_NH: Tensor,
    head: Head,
    targets: TopKTargets | HiddenTargets | FullTargets,
    token_ids_N: Tensor,
    weights_N: Tensor,
    config: DistillationConfig,
) -> ObjectiveResult:
    """The objective of `distillation_loss` with student logits (and online: teacher logits) [N, V] in memory."""
    student_NV = project(student_hidden_NH, head, config.temperature)
    logprobs_N, event_logprobs_N = student_NV.detach().gather(-1, token_ids_N[:, None])[:, 0], None
    if stops := targets.stops:
        student_NV, token_ids_N = merged(student_NV, stops.student, stops), stops.event_ids(token_ids_N)
        event_logprobs_N = student_NV.detach().gather(-1, token_ids_N[:, None])[:, 0]
    if isinstance(targets, TopKTargets):
        compared = _compare_recorded(student_NV, targets, token_ids_N, config)
    else:
        compared = _compare_online(student_NV, targets, token_ids_N, config)
    terms_NE, bounded = bounded_entries(
        configured(config, compared.teacher_entropy_N),
        compared.student_logprobs_NE,
        compared.teacher_logprobs_NE,
        config.bound,
        config.bound_threshold,
    )
    bounded_N = bounded.terms_NE.sum(dim=-1)
    token = BOUNDS[config.bound].of_token(bounded_N.detach(), config.bound_threshold)
    gradient_carrier_N = token.gradient_factor_N * bounded_N
    value_N = token.value_N + (gradient_carrier_N - gradient_carrier_N.detach())
    if config.value_scale != 1.0:
        value_N = value_N * config.value_scale
    return ObjectiveResult(
        loss_sum=(weights_N.to(value_N.dtype) * value_N).sum(),
        divergence_N=terms_NE.detach().sum(dim=-1),
        bounded_N=value_N.detach(),
        student_entropy_N=entropy(student_NV.detach()),
        teacher_entropy_N=compared.teacher_entropy_N,
        logprobs_N=logprobs_N,
        teacher_logprobs_N=compared.teacher_logprobs_N,
        event_logprobs_N=event_logprobs_N,
    )
