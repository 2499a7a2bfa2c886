"""pytest tests/core/records/test_targets.py — the divergence along a completion that a study's report draws."""

import numpy as np
import pytest

from opsd_core.records.rollouts import Rollout
from opsd_core.records.targets import Target
from opsd_core.teacher.scoring import divergence_along

T, V = 6, 50


def recorded(logits_TV: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The K most likely tokens, their log-probabilities, and all of them in float64."""
    logprobs_TV = logits_TV - np.log(np.exp(logits_TV).sum(1, keepdims=True))
    ids_TK = np.argsort(-logprobs_TV, axis=1)[:, :k]
    return ids_TK, np.take_along_axis(logprobs_TV, ids_TK, 1).astype(np.float32), logprobs_TV


def pair(k: int, scale: float = 2.0):
    """A rollout and its target with k entries each, and the exact KL(student || teacher)."""
    draw = np.random.default_rng(0)
    s_ids, s_top, s = recorded(scale * draw.normal(size=(T, V)), k)
    t_ids, t_top, t = recorded(scale * draw.normal(size=(T, V)), k)
    nothing = np.zeros(T, np.float32)
    rollout = Rollout("a", 0, 0, [1], [2] * T, "", "stop", nothing, s[:, 2], s_ids, s_top, nothing, nothing)
    target = Target("a", 0, 1, t_ids, t_top, nothing, t[:, 2], nothing)
    return rollout, target, (np.exp(s) * (s - t)).sum(1)


def test_it_is_the_exact_divergence_when_everything_is_recorded():
    rollout, target, exact_T = pair(V)
    assert divergence_along(rollout, target) == pytest.approx(exact_T, abs=1e-4)


@pytest.mark.parametrize("k", [1, 4, 16])
def test_it_is_never_negative_nor_above_the_exact_one(k):
    """The sampled token's log p - log q, which it takes the place of, is neither."""
    rollout, target, exact_T = pair(k)
    found_T = divergence_along(rollout, target)
    assert (found_T >= 0).all() and (found_T <= exact_T + 1e-6).all()
    assert (rollout.logprobs_T - target.sampled_logprob_T).min() < 0
    if k == 16:
        assert found_T.mean() > 0.1 * exact_T.mean()


def test_it_is_zero_for_equal_distributions():
    rollout, target, _ = pair(8)
    same = Target("a", 0, 1, rollout.topk_ids_TK, rollout.topk_logprobs_TK, *[target.tail_logprob_T] * 3)
    assert divergence_along(rollout, same) == pytest.approx(np.zeros(T), abs=1e-6)
