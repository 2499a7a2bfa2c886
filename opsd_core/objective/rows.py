"""Arithmetic over the rows of a strip, in place: tile after tile, or in one pass each where a GPU has kernels for it.

Every function is the reference for its kernel in `opsd_core.objective.kernels`, which is used only after it has given the same
numbers on the device at hand.

R = tokens of the strip, V = vocabulary, W = width of a tile
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from opsd_core.config.method import DistillationConfig
from opsd_core.objective.bounds import bounded_entries
from opsd_core.objective.divergences import configured
from opsd_core.objective.kernels import kernels_for
from opsd_core.objective.types import LOG_ZERO

Cap = Callable[[Tensor], Tensor]
"""The derivative of the soft cap, from capped logits divided by the temperature."""


class Tiles(NamedTuple):
    """Rows of a strip and columns of a tile."""

    rows: int
    width: int

    def of(self, vocabulary: int) -> Iterator[slice]:
        """The tiles of a strip, left to right; the last may be narrower."""
        return (slice(start, min(start + self.width, vocabulary)) for start in range(0, vocabulary, self.width))


class DenseValues(NamedTuple):
    """Sums over the vocabulary: the divergence, the divergence after a bound on entries or target, and the slopes."""

    total_R: Tensor
    bounded_R: Tensor
    slope_sum_R: Tensor


class Slopes(NamedTuple):
    """What the gradient of a strip is made of: g_v = factor (d_v - S_v sum_u d_u)."""

    slopes_RV: Tensor
    sum_R: Tensor
    factor_R: Tensor


def logsumexp(logits_RV: Tensor, tiles: Tiles) -> Tensor:
    """Online over tiles, combined in float64: one rounding, however many tiles."""
    if kernels := kernels_for(logits_RV):
        return kernels.logsumexp(logits_RV)
    total_R = logits_RV.new_full((len(logits_RV),), -torch.inf, dtype=torch.float64)
    for columns in tiles.of(logits_RV.shape[1]):
        total_R = torch.logaddexp(total_R, torch.logsumexp(logits_RV[:, columns], dim=1).double())
    return total_R.to(logits_RV.dtype)


def normalise(logits_RV: Tensor, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Logits to log-probabilities in place (-inf becomes LOG_ZERO); returns the normaliser and the entropy."""
    if kernels := kernels_for(logits_RV):
        return kernels.normalise(logits_RV)
    normaliser_R = logsumexp(logits_RV, tiles)
    entropy_R = torch.zeros_like(normaliser_R)
    for columns in tiles.of(logits_RV.shape[1]):
        logprobs_RW = logits_RV[:, columns].sub_(normaliser_R[:, None]).clamp_(min=LOG_ZERO)
        entropy_R -= torch.linalg.vecdot(logprobs_RW.exp(), logprobs_RW)
    return normaliser_R, entropy_R


def dense_values(
    student_RV: Tensor,
    teacher_RV: Tensor,
    teacher_entropy_R: Tensor,
    config: DistillationConfig,
    tiles: Tiles,
    floored: tuple[int, Tensor] | None = None,
) -> DenseValues:
    """The configured divergence of two strips of log-probabilities; the teacher's is overwritten with the slopes.

    `floored`: a column, and the rows (R,) bool in which it stands at a floor and has no slope.
    """
    kernels = kernels_for(student_RV)
    if kernels and (found := kernels.dense_values(student_RV, teacher_RV, teacher_entropy_R, config, floored)):
        return DenseValues(*found)
    divergence = configured(config, teacher_entropy_R)
    total_R, bounded_R, slope_sum_R = (torch.zeros_like(teacher_entropy_R) for _ in range(3))
    for columns in tiles.of(student_RV.shape[1]):
        teacher_RW = teacher_RV[:, columns]
        terms_RW, entries = bounded_entries(
            divergence, student_RV[:, columns], teacher_RW, config.bound, config.bound_threshold
        )
        tile_total_R = terms_RW.sum(dim=1)
        total_R += tile_total_R
        bounded_R += tile_total_R if entries.terms_NE is terms_RW else entries.terms_NE.sum(dim=1)
        if floored and columns.start <= floored[0] < columns.stop:
            entries.slopes_NE[:, floored[0] - columns.start].masked_fill_(floored[1], 0.0)
        slope_sum_R += entries.slopes_NE.sum(dim=1)
        teacher_RW.copy_(entries.slopes_NE)
    return DenseValues(total_R, bounded_R, slope_sum_R)


def dense_gradients(
    student_RV: Tensor, slopes: Slopes, normaliser_R: Tensor, tiles: Tiles, cap: Cap | None = None
) -> None:
    """Overwrite the student's log-probabilities with the gradient of its logits; `normaliser_R` is for the cap alone."""
    if cap is None and (kernels := kernels_for(student_RV)):
        return kernels.dense_gradients(student_RV, *slopes)
    share_R1, factor_R1 = (-slopes.sum_R * slopes.factor_R)[:, None], slopes.factor_R[:, None]
    for columns in tiles.of(student_RV.shape[1]):
        student_RW = student_RV[:, columns]
        cap_RW = cap(student_RW + normaliser_R[:, None]) if cap else None
        student_RW.exp_().mul_(share_R1).addcmul_(slopes.slopes_RV[:, columns], factor_R1)
        if cap_RW is not None:
            student_RW *= cap_RW
    return None


def tail_gradients(
    masked_RV: Tensor, tail_R: Tensor, outside_R: Tensor | None, tiles: Tiles, cap: Cap | None = None
) -> Tensor:
    """sum_v Q_v log Q_v of masked logits, which become Q_v * outside (0 at kept entries) unless `outside_R` is None."""
    if cap is None and (kernels := kernels_for(masked_RV)):
        return kernels.tail_gradients(masked_RV, tail_R, outside_R)
    mean_log_q_R = torch.zeros_like(tail_R)
    for columns in tiles.of(masked_RV.shape[1]):
        tile_RW = masked_RV[:, columns]
        log_q_RW = (tile_RW - tail_R[:, None]).clamp_(min=LOG_ZERO)
        q_RW = log_q_RW.exp()
        mean_log_q_R += torch.linalg.vecdot(q_RW, log_q_RW)
        if outside_R is not None:
            q_RW *= outside_R[:, None]
            if cap:
                q_RW *= cap(tile_RW)
            tile_RW.copy_(q_RW)
    return mean_log_q_R


def cap_derivative(scaled_logits: Tensor, config: DistillationConfig, softcap: float) -> Tensor:
    """1 - (logits / softcap)^2, the derivative of softcap * tanh(x / softcap); masked logits count as fully capped."""
    return 1.0 - (scaled_logits * (config.temperature / softcap)).clamp(min=-1.0).square()


def cap_of(config: DistillationConfig, softcap: float | None) -> Cap | None:
    """`cap_derivative` of this head; None without a cap."""
    return partial(cap_derivative, config=config, softcap=softcap) if softcap else None
