"""What a setting altered in an optimiser step: how many tokens and completions. One that alters next to none has no effect.

    bite/bound        the bound changed the token's value
    bite/weights      the token does not count 1: token_weights.*, distillation.skip_first_tokens, a filter's weight
    bite/importance   the importance ratio was cut at token_weights.importance_clip
    bite/stop         the token ends the completion, so that merged end tokens speak there

each as `_tokens`, a share of the step's completion tokens, and `_completions`, the share of completions with such a token; an
environment's tokens are not looked at.
N = completion tokens of a step
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from opsd_core.config import CampaignConfig
from opsd_core.objective import ObjectiveResult
from opsd_core.selection.monitors import Metrics
from opsd_core.training.items import TrainingItem
from opsd_core.training.monitors import bound_change

_CHANGED = 1e-6
"""Units of a weight, below which float32 may differ by itself."""


def bitten(
    items: Sequence[TrainingItem],
    results: Sequence[ObjectiveResult],
    stopped_N: Tensor,
    logprobs_N: Tensor | None,
    config: CampaignConfig,
) -> Metrics:
    """The shares of one step; the bound's and the ratio's of the tokens that count."""
    lengths = [len(item.completion_ids) for item in items]
    masks = (item.sampled_T for item in items)
    own_N = np.concatenate([np.ones(n, bool) if own is None else own for own, n in zip(masks, lengths, strict=True)])
    weights_N = np.concatenate([item.weights_T for item in items])
    counted_N = weights_N > 0
    found = {"weights": np.abs(weights_N - 1.0) > _CHANGED, "stop": stopped_N.cpu().numpy()}
    if not config.distillation.teacher_free:
        found["bound"] = (bound_change(results, config.distillation).numpy() != 0.0) & counted_N
    if logprobs_N is not None and config.token_weights.importance_correction:
        old_N = np.concatenate([item.rollout_logprobs_T for item in items])
        log_ratio_N = logprobs_N.float().cpu().numpy() - old_N  # nan where nothing was sampled, and never above
        found["importance"] = (log_ratio_N > math.log(config.token_weights.importance_clip)) & counted_N
    metrics: Metrics = {}
    for name, altered_N in found.items():
        metrics[f"bite/{name}_tokens"] = float(altered_N[own_N].mean())
        parts = np.split(altered_N & own_N, np.cumsum(lengths)[:-1])
        metrics[f"bite/{name}_completions"] = float(np.mean([part.any() for part in parts]))
    return metrics

