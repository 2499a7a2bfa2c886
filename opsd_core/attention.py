"""Attention in float32 on a CPU, whatever the model's dtype.

Matrix products with weights are several times faster in bfloat16, but torch's bfloat16 attention on a CPU rounds more than its
float32 one, and its backward pass takes two to three times as long at the lengths of distillation.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_float32"


def float32_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' scaled dot-product attention in float32, also within autocast; the result has the query's dtype."""
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        wide = (query.float(), key.float(), value.float())
        output, weights = sdpa_attention_forward(module, *wide, attention_mask, **options)
    return output.to(query.dtype), weights


def use_float32_attention(model: PreTrainedModel) -> None:
    """Let a model on a CPU that uses torch's attention compute it in float32; any other model stays as it is."""
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


AttentionInterface.register(NAME, float32_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
