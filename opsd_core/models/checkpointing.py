"""Gradient checkpointing: activations are computed again in the backward pass instead of being kept.

The same gradients for about a third more time; what is kept is one layer's inputs per layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from opsd_core.errors import ModelError
from opsd_core.models.policy import Policy


class _ComputedAgain:
    """A layer's forward pass that keeps its inputs alone where gradients are wanted.

    transformers' own switch works in training mode only, where dropout would come with it.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **options)
        return checkpoint(self.forward, *args, use_reentrant=False, **options)


def checkpoint_gradients(policy: Policy) -> Policy:
    """Switch it on, in place; eval() and train() leave it on. ModelError when the architecture cannot."""
    model = policy.causal_lm
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not model.supports_gradient_checkpointing or not layers:
        raise ModelError(
            f"execution.gradient_checkpointing=true, but {type(model).__name__} cannot compute activations again. "
            "Set execution.gradient_checkpointing=false."
        )
    for layer in layers:
        if not isinstance(layer.forward, _ComputedAgain):
            layer.forward = _ComputedAgain(layer.forward)
    return policy


def checkpoints(model: PreTrainedModel) -> bool:
    """Whether it is on and gradients are wanted: a layer that is computed twice must not fill a cache, so none is shared.

    transformers' own switch counts too, in training mode, where it works: it drops the cache and says nothing, so that what
    follows a shared beginning would be computed without it.
    """
    return torch.is_grad_enabled() and any(_computed_again(module) for module in model.modules())


def _computed_again(module: torch.nn.Module) -> bool:
    return isinstance(module.forward, _ComputedAgain) or (getattr(module, "gradient_checkpointing", False) and module.training)
