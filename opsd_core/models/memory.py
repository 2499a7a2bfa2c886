"""How much memory the stages of an iteration need, before any of them runs: an estimate from sizes alone.

P = parameters, T = tokens of a forward pass, L = layers, H = hidden size, I = size of the feed-forward layer

    rollout, evaluate   b P + caches of keys and values of the batch at full length
    targets             b P + hidden states
    distil              4 P + 12 P_trained (gradient and two moments) + teacher + activations
    activations         4 T L (10 H + 4 I), with gradient checkpointing 4 T (L H + 10 H + 4 I)

b = bytes of a weight in the dtype of sampling. The factors 10 and 4 count what a decoder layer keeps for its backward pass.
"""

from typing import Any

import psutil
import torch

from opsd_core.config import CampaignConfig
from opsd_core.models.policy import Policy, resolve_device, resolve_dtype

_OVERHEAD = 600_000_000
"""Bytes of the process itself: interpreter, libraries, buffers of kernels."""
_SHARE = 0.8
"""Share of the free memory that training may take before activations are computed twice instead of kept."""


def memory_estimate(
    policy: Policy, config: CampaignConfig, *, tokens: int | None = None, checkpointing: bool = False
) -> dict[str, int]:
    """Bytes at the peak of each stage, on the device that it runs on.

    `tokens` in one forward pass of training, where they are known; else as many as the settings allow.
    """
    text, parameters = _Sizes(policy.causal_lm.config.get_text_config(decoder=True)), _parameters(policy)
    width = resolve_dtype(config.model).itemsize
    weights, rollout, evaluation = width * parameters, config.rollout, config.evaluation
    longest = config.prompts.max_prompt_length + rollout.max_completion_length
    sampled = config.execution.rollout_batch_size * longest * text.cache * width
    asked = config.execution.evaluation_batch_size * (config.prompts.max_prompt_length + evaluation.max_completion_length)
    tokens = tokens or max(config.execution.microbatch_tokens, config.rollout.max_completion_length)
    layers = (text.layers * text.hidden + text.layer) if checkpointing else text.layers * text.layer
    return {
        "rollout": _OVERHEAD + weights + sampled,
        "targets": _OVERHEAD + weights + tokens * text.layer * width,
        "distil": _OVERHEAD + 4 * parameters + 12 * _trained(parameters, text, config) + weights + 4 * tokens * layers,
        "evaluate": _OVERHEAD + weights + asked * text.cache * width,
    }


def wants_checkpointing(policy: Policy, config: CampaignConfig, tokens: int) -> bool:
    """Whether activations are computed again in the backward pass: as configured, else where they would not fit.

    `tokens` of the largest forward pass.
    """
    if config.execution.gradient_checkpointing is not None:
        return config.execution.gradient_checkpointing
    return memory_estimate(policy, config, tokens=tokens)["distil"] > _SHARE * free_bytes(config)


def free_bytes(config: CampaignConfig) -> int:
    """Free memory of the device that trains."""
    if resolve_device(config.model).type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


class _Sizes:
    """What a text configuration says of its layers; a name that a family does not have counts as its usual multiple."""

    def __init__(self, config: Any) -> None:
        self.hidden = int(getattr(config, "hidden_size", 0) or 1024)
        self.layers = int(getattr(config, "num_hidden_layers", 0) or 12)
        heads = int(getattr(config, "num_attention_heads", 0) or 1)
        shared = int(getattr(config, "num_key_value_heads", 0) or heads)
        size = int(getattr(config, "head_dim", 0) or self.hidden // heads)
        self.intermediate = int(getattr(config, "intermediate_size", 0) or 4 * self.hidden)
        self.cache = 2 * self.layers * shared * size
        """Numbers that the caches keep per token."""
        self.layer = 10 * self.hidden + 4 * self.intermediate
        """Numbers that a layer keeps per token for its backward pass."""


def _parameters(policy: Policy) -> int:
    return sum(parameter.numel() for parameter in policy.causal_lm.parameters())


def _trained(parameters: int, text: _Sizes, config: CampaignConfig) -> int:
    """All parameters, or about those of adapters at every linear map of every layer."""
    rank = config.model.lora.rank
    return min(parameters, 2 * rank * text.layers * (4 * text.hidden + 3 * text.intermediate)) if rank else parameters
