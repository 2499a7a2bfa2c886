"""Rollouts are sampled by an older policy than the one that learns: how much older, and the correction.

    ratio_n = min(exp(clamp(log pi(y_n) - log pi_old(y_n), -20, 20)), clip),  held fixed

log pi is computed by the learner, at learner time, in one projection without gradient; each token's loss is multiplied
by its ratio. Both sides are taken under the same distribution: with temperature alone the one that was drawn from (so
the ratio is exact); with top-k or top-p, whose renormaliser is unknown for the learner, the untempered one.

Source: truncated importance sampling as in TRL `sdft` and SDPO (`is_clip`), verl `rollout_is`; staleness arXiv:2606.24143.

N = completion tokens of a microbatch
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opsd_core.config import RolloutConfig
from opsd_core.errors import TrainingError
from opsd_core.objective import Head
from opsd_core.objective.plain import ROWS_PER_TILE, project
from opsd_core.objective.ratios import MAX_LOG_RATIO, effective_sample_size
from opsd_core.records.rollouts import Rollout


def old_temperature(config: RolloutConfig) -> float:
    """The temperature at which policy and old policy are compared."""
    truncated = config.top_k > 0 or config.top_p < 1.0
    return 1.0 if truncated else config.temperature


def old_logprobs(rollout: Rollout, config: RolloutConfig) -> np.ndarray:
    """log pi_old (T,) of the sampled tokens at `old_temperature`; nan where nobody sampled: a reference, an environment."""
    if rollout.source == "reference":
        return np.full(len(rollout.completion_ids), np.nan, np.float32)
    old_T = rollout.logprobs_T if old_temperature(config) == 1.0 else rollout.sampling_logprobs_T
    return old_T if rollout.sampled_T is None else np.where(rollout.sampled_T, old_T, np.nan).astype(np.float32)


@torch.no_grad()
def sampled_logprobs(hidden_NH: Tensor, head: Head, tokens_N: Tensor, temperature: float) -> Tensor:
    """log pi (N,) of the sampled tokens, float32, a tile of positions at a time."""
    parts = []
    for start in range(0, len(hidden_NH), ROWS_PER_TILE):
        rows = slice(start, start + ROWS_PER_TILE)
        parts.append(project(hidden_NH[rows], head, temperature).gather(1, tokens_N[rows, None]).squeeze(1))
    return torch.cat(parts)


def importance_ratio(logprobs_N: Tensor, old_logprobs_N: Tensor, clip: float) -> Tensor:
    """exp(log pi - log pi_old), bounded by `clip`, without gradient; 1 where nothing was sampled (log pi_old is nan)."""
    log_ratio_N = (logprobs_N - old_logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return log_ratio_N.exp().clamp(max=clip).nan_to_num(nan=1.0).detach()


def correction_metrics(logprobs_N: Tensor, old_logprobs_N: Tensor, clip: float) -> dict[str, float]:
    """How far policy and old policy are apart on the sampled tokens, under verl's names.

    kl       mean(log pi_old - log pi), an estimate of KL(old || now);   k3_kl  mean(r - 1 - log r), never negative
    ess      (sum r)^2 / (N sum r^2) of the clipped ratios: 1 = all tokens count alike

    Tokens that nobody sampled do not count; without any other there is nothing to report.
    """
    sampled_N = ~torch.isnan(old_logprobs_N)
    if not sampled_N.any():
        return {}
    logprobs_N, old_logprobs_N = logprobs_N[sampled_N], old_logprobs_N[sampled_N]
    log_ratio_N = (logprobs_N - old_logprobs_N).double().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    clipped_N = ratio_N.clamp(max=clip)
    return {
        "rollout_corr/kl": -log_ratio_N.mean().item(),
        "rollout_corr/k3_kl": (ratio_N - 1 - log_ratio_N).mean().item(),
        "rollout_corr/rollout_is_mean": clipped_N.mean().item(),
        "rollout_corr/rollout_is_eff_sample_size": effective_sample_size(
            clipped_N.sum().item(), clipped_N.square().sum().item(), len(clipped_N)
        ),
        "rollout_corr/rollout_is_ratio_fraction_high": (ratio_N > clip).double().mean().item(),
    }


def check_staleness(sampled_in: Sequence[int], iteration: int, max_staleness: int) -> None:
    """TrainingError when a shard was sampled more than `max_staleness` iterations before the one that learns from it."""
    for sampled in sampled_in:
        if not 0 <= iteration - sampled <= max_staleness:
            raise TrainingError(
                f"rollouts of iteration {sampled} reach the learner in iteration {iteration}: staleness "
                f"{iteration - sampled}, allowed are 0 to token_weights.max_staleness={max_staleness}. The policy that sampled "
                "them is no longer the one that learns: sample again, or raise token_weights.max_staleness and turn on "
                "token_weights.importance_correction."
            )
