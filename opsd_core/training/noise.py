"""Noise on the student's view: an asymmetry without privileged information (NEFTune, arXiv:2310.05914; arXiv:2608.14144).

    embedding'_t = embedding_t + alpha / sqrt(L * H) * u_t,    u_t ~ U(-1, 1)^H

L = fed tokens of the sequence, H = hidden size
"""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from opsd_core.digest import derive_seed


def embedding_noise(
    alpha: float, hidden_size: int, seed: int, step: int, keys: Sequence[Sequence[Hashable]]
) -> Callable[[int, int], Tensor]:
    """`noise(row, length)` (L, H) for `completion_hidden`; `keys` name the sequences.

    Drawn from (seed, step, key) alone: the same after a resume and in any microbatch.
    """

    def noise(row: int, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed("noise", seed, step, *keys[row]))
        uniform_LH = torch.rand(length, hidden_size, generator=generator) * 2.0 - 1.0
        return uniform_LH * (alpha / (length * hidden_size) ** 0.5)

    return noise
