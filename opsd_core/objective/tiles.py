"""Logits of a strip, tile by tile: sums over the vocabulary whose temporaries stay in cache.

R = tokens of the strip, V = vocabulary, W = width of a tile
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from opsd_core.objective.types import LOG_ZERO


class Tiles(NamedTuple):
    """Rows of a strip and columns of a tile."""

    rows: int
    width: int

    def of(self, vocabulary: int) -> Iterator[slice]:
        """The tiles of a strip, left to right; the last may be narrower."""
        return (slice(start, min(start + self.width, vocabulary)) for start in range(0, vocabulary, self.width))


def logsumexp(logits_RV: Tensor, tiles: Tiles) -> Tensor:
    """Over the vocabulary (R,), online over tiles, combined in float64: one rounding, however many tiles."""
    total_R = logits_RV.new_full((len(logits_RV),), -torch.inf, dtype=torch.float64)
    for columns in tiles.of(logits_RV.shape[1]):
        total_R = torch.logaddexp(total_R, torch.logsumexp(logits_RV[:, columns], dim=1).double())
    return total_R.to(logits_RV.dtype)


def normalise(logits_RV: Tensor, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Logits to log-probabilities in place (-inf becomes LOG_ZERO); returns the normaliser and the entropy."""
    normaliser_R = logsumexp(logits_RV, tiles)
    entropy_R = torch.zeros_like(normaliser_R)
    for columns in tiles.of(logits_RV.shape[1]):
        logprobs_RW = logits_RV[:, columns].sub_(normaliser_R[:, None]).clamp_(min=LOG_ZERO)
        entropy_R -= torch.linalg.vecdot(logprobs_RW.exp(), logprobs_RW)
    return normaliser_R, entropy_R
