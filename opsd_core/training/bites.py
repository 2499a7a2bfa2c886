"""What a setting altered in an optimiser step: how many tokens and completions. One that alters next to none has no effect.

    bite/bound        the bound changed the token's value
    bite/weights      the token does not count 1: token_weights.*, distillation.skip_first_tokens, a filter's weight
    bite/importance   the importance ratio was cut at token_weights.importance_clip
    bite/stop         the token ends the completion, so that merged end tokens speak there

each as `_tokens`, a share of the step's completion tokens, and `_completions`, the share of completions with such a token.
N = completion tokens of a step
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opsd_core.config import CampaignConfig
from opsd_core.objective import ObjectiveResult
from opsd_core.selection.monitors import Metrics
from opsd_core.training.items import TrainingItem

_CHANGED = 1e-6
"""Nats, or units of a weight, below which float32 may differ by itself."""


def bitten(
    items: Sequence[TrainingItem],
    results: Sequence[ObjectiveResult],
    stopped_N: Tensor,
    logprobs_N: Tensor | None,
    config: CampaignConfig,
) -> Metrics:
    """The shares of one step; the bound's and the ratio's of the tokens that count."""
    lengths = [len(item.completion_ids) for item in items]
    weights_N = np.concatenate([item.weights_T for item in items])
    counted_N = weights_N > 0
    found = {"weights": np.abs(weights_N - 1.0) > _CHANGED, "stop": stopped_N.cpu().numpy()}
    if not config.distillation.teacher_free:
        scale = config.distillation.temperature**2 if config.distillation.scale_by_temperature_squared else 1.0
        before_N, after_N = (_column(results, name) for name in ("divergence_N", "bounded_N"))
        found["bound"] = (np.abs(scale * before_N - after_N) > _CHANGED * (1.0 + np.abs(before_N))) & counted_N
    if logprobs_N is not None and config.token_weights.importance_correction:
        old_N = np.concatenate([item.rollout_logprobs_T for item in items])
        ratio_N = np.exp(np.clip(np.nan_to_num(logprobs_N.float().cpu().numpy() - old_N), -20.0, 20.0))
        found["importance"] = (ratio_N > config.token_weights.importance_clip) & counted_N
    metrics: Metrics = {}
    for name, altered_N in found.items():
        metrics[f"bite/{name}_tokens"] = float(altered_N.mean())
        parts = np.split(altered_N, np.cumsum(lengths)[:-1])
        metrics[f"bite/{name}_completions"] = float(np.mean([part.any() for part in parts]))
    return metrics


def _column(results: Sequence[ObjectiveResult], name: str) -> np.ndarray:
    return torch.cat([getattr(result, name) for result in results]).float().cpu().numpy()
