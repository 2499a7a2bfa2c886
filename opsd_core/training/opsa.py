"""OPSA, the teacher-free control: the least likely sampled tokens become less likely, and nothing else changes.

    selected   the ceil(fraction * N) counted tokens of an optimiser step with the smallest log pi_old(y_n)
    A_n        -1/2 - (H_n - H_min) / (2 (H_max - H_min))     in [-1, -1/2], H over the selected tokens; -1/2 if all agree
    loss       -sum_n w_n A_n log S(y_n) / sum_n w_n          over the selected tokens

log pi_old and H are those of the policy that sampled, so neither microbatches nor shards change the selection.
What a campaign gains over this one is what its teacher contributes.

Source: arXiv:2608.31046 (fraction 0.2; at 0.1 entropy collapses; A = +0.2 collapses).

N = counted tokens of one optimiser step
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from opsd_core.training.items import TrainingItem


def with_advantages(batch: Sequence[TrainingItem], fraction: float) -> list[TrainingItem]:
    """The items of one optimiser step with their advantages, and weight 0 wherever a token is not selected.

    Equal log-probabilities are taken in the order of the batch.
    """
    counted_N = np.concatenate([item.weights_T for item in batch]) > 0
    logprobs_N = np.concatenate([item.rollout_logprobs_T for item in batch])
    entropy_N = np.concatenate([item.rollout_entropy_T for item in batch])
    rows = np.flatnonzero(counted_N)
    chosen = rows[np.argsort(logprobs_N[rows], kind="stable")[: math.ceil(fraction * len(rows))]]
    selected_N, advantages_N = np.zeros(len(counted_N), bool), np.zeros(len(counted_N), np.float32)
    selected_N[chosen] = True
    if len(chosen):
        advantages_N[chosen] = _advantages(entropy_N[chosen])
    items, start = [], 0
    for item in batch:
        rows_T = slice(start, start + len(item.weights_T))
        weights_T = np.where(selected_N[rows_T], item.weights_T, 0).astype(np.float32)
        items.append(replace(item, weights_T=weights_T, advantages_T=advantages_N[rows_T]))
        start = rows_T.stop
    return items


def _advantages(entropy_N: np.ndarray) -> np.ndarray:
    low, high = float(entropy_N.min()), float(entropy_N.max())
    if high == low:
        return np.full(len(entropy_N), -0.5, np.float32)
    return (-0.5 - (entropy_N.astype(np.float64) - low) / (2 * (high - low))).astype(np.float32)
