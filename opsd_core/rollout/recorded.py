"""What was recorded while sampling, held against the model itself: every shard is checked before it is stored.

T = tokens of a completion, V = vocabulary
"""

from collections.abc import Sequence

import numpy as np
import torch

from opsd_core.errors import ModelError
from opsd_core.models.policy import Policy
from opsd_core.records.rollouts import Rollout

CHECKED = 4
"""Rollouts of a shard that are computed again."""
_LARGEST = {torch.float32: 5e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
"""Nats: mean error of a token's log-probability that rounding explains, by dtype."""


def rounding_of(dtype: torch.dtype) -> float:
    """Nats per token by which rounding alone may move a log-probability on average."""
    return _LARGEST.get(dtype, _LARGEST[torch.bfloat16])


@torch.inference_mode()
def recorded_error(policy: Policy, rollouts: Sequence[Rollout]) -> float:
    """Mean |recorded - recomputed| log-probability of the sampled tokens, in nats, over a few rollouts of all lengths.

    Each is computed alone, without a cache, from one forward pass over prompt and completion. ModelError when rounding does not
    explain the difference: then sampling and training would not be of the same policy. Source: SkyRL, verl `log_ppl_diff`.
    """
    sampled = sorted((r for r in rollouts if r.source == "policy"), key=lambda r: (len(r.prompt_ids), len(r.completion_ids)))
    if not sampled:
        return 0.0
    chosen = {round(place * (len(sampled) - 1) / max(CHECKED - 1, 1)) for place in range(CHECKED)}
    errors = [sampled[row].own(np.abs(_recomputed(policy, sampled[row]) - sampled[row].logprobs_T)) for row in sorted(chosen)]
    error, dtype = float(np.concatenate(errors).mean()), policy.causal_lm.dtype
    if not error <= rounding_of(dtype):
        raise ModelError(
            f"rollouts were recorded with log-probabilities that are off by {error:.3g} nats per token from what the model gives "
            f"the same tokens alone ({dtype}): {type(policy.causal_lm).__name__} is sampled on a path that does not fit it. Set "
            "execution.rollout_batch_size=1 or model.dtype=float32, and report the model."
        )
    return error


def _recomputed(policy: Policy, rollout: Rollout) -> np.ndarray:
    """log pi (T,) of the completion's tokens, untempered."""
    ids = torch.tensor([*rollout.prompt_ids, *rollout.completion_ids], device=policy.device)
    logits_TV = policy.causal_lm(input_ids=ids[None, :-1]).logits[0, len(rollout.prompt_ids) - 1 :].float()
    logprobs_TV = torch.log_softmax(logits_TV, dim=-1)
    return logprobs_TV.gather(1, ids[len(rollout.prompt_ids) :, None]).squeeze(1).cpu().numpy()
