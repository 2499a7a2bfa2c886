"""Layers that no adapter fits although they are linear: the model is asked, no list of names is complete."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from opsd_core.models.cut import tried_out

_STATE_SPACES = re.compile("mamba|falcon_?h1|nemotron_?h")
"""peft refuses the projections of state spaces by name: fused kernels read their weights past the adapter."""
_FUSED = ("out_proj", "conv1d")
_PROBE_TOKENS = 8


def unfit(model: PreTrainedModel) -> list[str]:
    """Full names of linear layers to leave out of "all-linear".

    Those with a forward pass of their own that is not x W^T + b (routers return tuples, grouped projections reshape), those whose
    weight the model reads without calling the layer, so that an adapter would do nothing until it is merged, and the
    projections of state spaces, which feed fused kernels.
    """
    names = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not _is_linear(module):
            names.append(name)
        elif isinstance(module, nn.Linear | nn.Conv1d) and name.rpartition(".")[2] in _FUSED:
            owner = type(model.get_submodule(name.rpartition(".")[0])).__name__.lower()
            if _STATE_SPACES.search(owner) or _STATE_SPACES.search(model.config.model_type):
                names.append(name)
    return names + [name for name in _read_directly(model) if name not in names]


@torch.no_grad()
def _is_linear(module: nn.Linear) -> bool:
    """Whether a layer whose class has another forward pass gives x W^T + b all the same."""
    if type(module).forward is nn.Linear.forward:
        return True
    with tried_out(module):
        return _gives_the_product(module)


def _gives_the_product(module: nn.Linear) -> bool:
    weight_OI = module.weight
    input_BI = torch.linspace(-1.0, 1.0, 2 * weight_OI.shape[1], device=weight_OI.device).view(2, -1).to(weight_OI.dtype)
    try:
        found = module(input_BI)
        wanted_BO = functional.linear(input_BI, weight_OI, module.bias)
    except Exception:  # whatever another kind of layer raises, it is not this one
        return False
    if not isinstance(found, torch.Tensor) or found.shape != wanted_BO.shape:
        return False
    return bool((found - wanted_BO).abs().max() <= 1e-2 * wanted_BO.abs().max())


def _read_directly(model: PreTrainedModel) -> list[str]:
    """Names of linear layers that are never called on a few tokens although the logits depend on their weights."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    called: set[int] = set()

    def note(module: nn.Module, *_: Any) -> None:
        called.add(id(module))

    with torch.no_grad(), tried_out(model):
        _hooked(model, list(layers.values()), note)
    silent = {name: module for name, module in layers.items() if id(module) not in called}
    if not silent:
        return []
    with ExitStack() as stack:
        for module in (*silent.values(), model):
            stack.enter_context(tried_out(module))
        return _asked_for(model, silent)


def _asked_for(model: PreTrainedModel, silent: dict[str, nn.Linear]) -> list[str]:
    """Names of those on whose weights the logits depend."""
    wanted = {id(module.weight) for module in silent.values()}
    kept = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in kept:
            parameter.requires_grad_(id(parameter) in wanted)
        with torch.enable_grad():
            logits = _hooked(model, [], lambda *_: None)
            weights = [module.weight for module in silent.values()]
            found = torch.autograd.grad(logits.square().sum(), weights, allow_unused=True) if logits.requires_grad else ()
    finally:
        for parameter, needed in kept:
            parameter.requires_grad_(needed)
    return [name for name, gradient in zip(silent, found, strict=False) if gradient is not None and gradient.any()]


def _hooked(model: PreTrainedModel, layers: list[nn.Linear], note: Callable[..., None]) -> torch.Tensor:
    """Logits of the first few ids, in eval mode; `note` is called with each layer that is."""
    hooks, training = [layer.register_forward_hook(note) for layer in layers], model.training
    ids_1P = torch.arange(_PROBE_TOKENS, device=model.device)[None] % model.get_input_embeddings().weight.shape[0]
    try:
        return model.eval()(input_ids=ids_1P, use_cache=False).logits
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
