"""Objectives without a teacher, of the log-probability of the completion's own tokens:

    cross_entropy   l_n = -log S(y_n)
    opsa            l_n = -A_n log S(y_n),   A_n held fixed (opsd_core/training/opsa.py)

with the gradient  dl_n/dz_v = A_n (S_v - 1[v = y_n]) / T_loss.  No bound applies: bounds hold a divergence to a teacher.

N = tokens, R = tokens of a strip, V = vocabulary
"""

import torch
from torch import Tensor

from opsd_core.config.method import DistillationConfig
from opsd_core.objective.plain import entropy, project
from opsd_core.objective.rows import Tiles, cap_of, normalise
from opsd_core.objective.strips import StripResult
from opsd_core.objective.types import Head, ObjectiveResult, SampledTokens


def plain_likelihood(
    student_hidden_NH: Tensor,
    head: Head,
    targets: SampledTokens,
    token_ids_N: Tensor,
    weights_N: Tensor,
    config: DistillationConfig,
) -> ObjectiveResult:
    """loss_sum = -sum_n w_n A_n log S(y_n) with student logits [N, V] in memory, differentiated by autograd."""
    student_NV = project(student_hidden_NH, head, config.temperature)
    logprobs_N = student_NV.gather(-1, token_ids_N[:, None])[:, 0]
    value_N = -logprobs_N * _advantages(targets, logprobs_N) * config.value_scale
    return ObjectiveResult(
        loss_sum=(weights_N.to(value_N.dtype) * value_N).sum(),
        divergence_N=-logprobs_N.detach(),
        bounded_N=value_N.detach(),
        student_entropy_N=entropy(student_NV.detach()),
        teacher_entropy_N=None,
        logprobs_N=logprobs_N.detach(),
        teacher_logprobs_N=None,
    )


def likelihood_strip(
    student_RV: Tensor,
    targets: SampledTokens,
    token_ids_R: Tensor,
    weights_R: Tensor,
    config: DistillationConfig,
    softcap: float | None,
    tiles: Tiles,
    gradients: bool,
) -> StripResult:
    """The same of one strip; its logits become their gradients, in place."""
    normaliser_R, entropy_R = normalise(student_RV, tiles)
    logprobs_R = student_RV.gather(1, token_ids_R[:, None])[:, 0]
    advantages_R = _advantages(targets, logprobs_R)
    if gradients:
        factor_R = weights_R * advantages_R * (config.value_scale / config.temperature)
        ones_R, cap = torch.ones_like(factor_R), cap_of(config, softcap)
        for columns in tiles.of(student_RV.shape[1]):
            tile_RW = student_RV[:, columns]
            cap_RW = cap(tile_RW + normaliser_R[:, None]) if cap else None
            tile_RW.exp_()
            inside_R = (token_ids_R >= columns.start) & (token_ids_R < columns.stop)
            local_R1 = (token_ids_R - columns.start).clamp(0, tile_RW.shape[1] - 1)[:, None]
            tile_RW.scatter_add_(1, local_R1, -(ones_R * inside_R)[:, None])
            tile_RW *= factor_R[:, None]
            if cap_RW is not None:
                tile_RW *= cap_RW
    value_R = -logprobs_R * advantages_R * config.value_scale
    return StripResult(-logprobs_R, value_R, entropy_R, None, logprobs_R, None)


def _advantages(targets: SampledTokens, like_N: Tensor) -> Tensor:
    advantages_N = targets.advantages_N
    return torch.ones_like(like_N) if advantages_N is None else advantages_N.to(like_N.dtype)
