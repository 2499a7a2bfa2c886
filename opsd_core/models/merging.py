"""Merging that gives the same bits on every machine, for policies that are kept as a base and an adapter.

    W' = W + scale ((B[:, 0] A[0, :] + B[:, 1] A[1, :]) + ... + B[:, R-1] A[R-1, :])

A library's matrix product adds up in the order that suits the machine. Here every product and every sum is an operation of its
own, rounded once to float32, from the first rank to the last.

N, M = sides of the weight as it is stored, R = rank
"""

from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import Embedding, Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor

from opsd_core.models.whole import whole

_BLOCK = 1 << 18
"""Numbers that a CPU goes through at a time, rank by rank: they fit its cache."""


class _Factors(NamedTuple):
    left_NR: Tensor
    right_RM: Tensor
    scale: float


def merges_exactly(model: PeftModel) -> bool:
    """Whether every adapter of the model is one that `merged_weight` merges."""
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    return bool(layers) and all(_factors(layer) is not None for layer in layers)


@torch.no_grad()
def merged_weight(layer: BaseTunerLayer) -> Tensor | None:
    """(N, M) float32: the layer's weight with its one active adapter; None for other kinds of adapters than the plain one."""
    factors = _factors(layer)
    if factors is None:
        return None
    left_NR, right_RM = whole(factors.left_NR.detach()), whole(factors.right_RM.detach())
    weight_NM = whole(layer.base_layer.weight.detach())
    merged_NM = torch.empty(weight_NM.shape, dtype=torch.float32, device=weight_NM.device)
    rows = max(1, _BLOCK // weight_NM.shape[1]) if weight_NM.device.type == "cpu" else weight_NM.shape[0]
    for start in range(0, weight_NM.shape[0], rows):
        part = slice(start, start + rows)
        sum_nM = left_NR[part, :1] * right_RM[:1]
        product_nM = torch.empty_like(sum_nM)
        for rank in range(1, right_RM.shape[0]):
            torch.mul(left_NR[part, rank : rank + 1], right_RM[rank : rank + 1], out=product_nM)
            sum_nM += product_nM  # an operation of its own: a fused one would round once where this rounds twice
        sum_nM *= factors.scale
        torch.add(weight_NM[part].float(), sum_nM, out=merged_NM[part])
    return merged_NM


def _factors(layer: object) -> _Factors | None:
    """The factors of a plain adapter in float32 on a weight of its own, laid out as that weight is."""
    if type(layer) not in (Linear, Embedding) or isinstance(layer.base_layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return None
    active = layer.active_adapters
    if len(active) != 1 or layer.disable_adapters or layer.merged:
        return None
    (name,) = active
    if name in layer.lora_variant or layer.lora_bias.get(name):
        return None
    if type(layer) is Embedding:
        left, right, turned = layer.lora_embedding_B[name], layer.lora_embedding_A[name], True
    else:
        left, right, turned = layer.lora_B[name].weight, layer.lora_A[name].weight, layer.fan_in_fan_out
    if left.dtype != torch.float32 or right.dtype != torch.float32 or layer.base_layer.weight.dtype == torch.float64:
        return None
    return _Factors(*((right.T, left.T) if turned else (left, right)), layer.scaling[name])
