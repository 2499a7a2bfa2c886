"""Models of which a process holds its own part of every weight: read in parts, and laid out in parts afterwards.

A weight is cut along its first axis into as many parts as there are processes, as FSDP2 does it. While a model is read under
`cutting`, each of its weights is whole for a moment, alone; what stays is this process' part, and a stand-in of the weight's
shape, dtype and device that takes no memory. Its values are NaN, so that nobody computes with it unnoticed. Adapters fit on it.
`laid_out` puts the parts where FSDP2 expects them. Buffers are whole in every process.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers.modeling_layers import GradientCheckpointingLayer

from opsd_core.heap import without_gaps

_ONE_BY_ONE = "HF_DEACTIVATE_ASYNC_LOAD"
"""transformers' switch: weights are read as they are asked for, not ahead by several threads."""
_RANDOM = 1_000_003
"""Random numbers that are repeated where more are asked for."""


class Cut(NamedTuple):
    """Which part is held."""

    rank: int
    size: int

    def part(self, values: Tensor) -> Tensor:
        """A copy of this process' rows of `values`; none where there are fewer parts than processes."""
        parts = values.chunk(self.size)
        return parts[self.rank].clone() if self.rank < len(parts) else values[:0].clone()


@contextmanager
def cutting(cut: Cut | None) -> Iterator[None]:
    """Models that transformers reads inside keep this process' part of each weight; None = as ever."""
    if cut is None:
        yield
        return

    def keep(module: nn.Module, name: str, weight: nn.Parameter | None) -> nn.Parameter | None:
        read = getattr(weight, "_is_hf_initialized", False) and not weight.is_meta  # from a file, and not tied to one that was
        return _stand_in(weight, cut.part(weight.detach())) if read and weight.dim() and own_part(weight) is None else None

    before = os.environ.get(_ONE_BY_ONE)
    os.environ[_ONE_BY_ONE] = "1"
    hook = register_module_parameter_registration_hook(keep)
    try:
        with without_gaps():
            yield
    finally:
        hook.remove()
        os.environ.pop(_ONE_BY_ONE)
        if before is not None:
            os.environ[_ONE_BY_ONE] = before


def own_part(weight: Tensor | None) -> Tensor | None:
    """The part behind a stand-in; None for any other tensor."""
    return getattr(weight, "own_part", None)


def _stand_in(weight: Tensor, part: Tensor) -> nn.Parameter:
    made = nn.Parameter(_nothing(weight, weight.device), requires_grad=weight.requires_grad)
    made.own_part, made._is_hf_initialized = part, True
    return made


def _nothing(like: Tensor, device: torch.device) -> Tensor:
    value = float("nan") if like.is_floating_point() else 0
    return torch.full((), value, dtype=like.dtype, device=device).expand(like.shape)


def duplicate(weight: nn.Parameter) -> nn.Parameter:
    """A parameter of its own with the same values, or the same part of them."""
    part = own_part(weight)
    if part is None:
        return nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    return _stand_in(weight, part.clone())


def to_device(model: nn.Module, device: torch.device) -> None:
    """`model.to(device)`, in which stand-ins stay without memory; their parts move when they are laid out."""
    stand_ins = {weight.data_ptr() for weight in model.parameters() if own_part(weight) is not None}
    model._apply(lambda values: _nothing(values, device) if values.data_ptr() in stand_ins else values.to(device))


@contextmanager
def tried_out(module: nn.Module) -> Iterator[None]:
    """Inside, stand-ins have random values while they are computed with, so that a layer's kind can be asked for.

    Decoder layers have them one after the other, everything else throughout. Whatever keeps a graph keeps these values.
    """
    layers = [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer) and part is not module]
    inside = {id(part) for layer in layers for part in layer.modules()}
    hooks, filled = [], _filled([part for part in module.modules() if id(part) not in inside])
    for layer in layers:
        held: list[_Filled] = []
        hooks.append(layer.register_forward_pre_hook(lambda layer, _, held=held: held.append(_filled(layer.modules()))))
        hooks.append(layer.register_forward_hook(lambda *_, held=held: _restore(held.pop()), always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        _restore(filled)


_Filled = list[tuple[nn.Module, str, nn.Parameter]]


def _filled(modules: Iterable[nn.Module]) -> _Filled:
    """Random values in place of stand-ins, one for all places of a tied one; what was replaced."""
    random, made, replaced = torch.randn(_RANDOM, generator=torch.Generator().manual_seed(0)), {}, []
    for module in modules:
        for name, weight in module._parameters.items():
            if own_part(weight) is None:
                continue
            if id(weight) not in made:
                values = random.repeat(-(-weight.numel() // _RANDOM))[: weight.numel()].view(weight.shape)
                values.mul_(weight.shape[-1] ** -0.5 if weight.is_floating_point() else 0.0)
                made[id(weight)] = nn.Parameter(values.to(weight), requires_grad=weight.requires_grad)
            replaced.append((module, name, weight))
    for module, name, weight in replaced:
        setattr(module, name, made[id(weight)])
    return replaced


def _restore(replaced: _Filled) -> None:
    for module, name, weight in replaced:
        setattr(module, name, weight)


@contextmanager
def laid_out(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the model's stand-ins are without values, for FSDP2 to cut; afterwards their parts are there, on `device`."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    held: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if own_part(weight) is not None:
                held[id(weight)] = weight
                places.setdefault(id(weight), []).append((module, name))
    for key, weight in held.items():
        empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        _put(nn.Parameter(empty, requires_grad=weight.requires_grad), places[key])
    yield
    from torch.distributed.tensor import DTensor

    for key, weight in held.items():
        (module, name), *_ = places[key]
        empty, part = getattr(module, name), own_part(weight).to(device)
        layout = {"shape": empty.shape, "stride": empty.stride(), "run_check": False}
        whole = DTensor.from_local(part, empty.device_mesh, empty.placements, **layout)
        _put(nn.Parameter(whole, requires_grad=weight.requires_grad), places[key])
        del weight.own_part


def _put(weight: nn.Parameter, places: list[tuple[nn.Module, str]]) -> None:
    """At every place that one weight has: tied ones stay tied."""
    for module, name in places:
        setattr(module, name, weight)
