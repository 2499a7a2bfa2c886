"""Attention on a CPU: in float32 whatever the model's dtype, but for single queries of a bfloat16 cache.

Matrix products with weights are several times faster in bfloat16, but torch's bfloat16 attention on a CPU rounds more than its
float32 one, and its backward pass takes two to three times as long at the lengths of distillation. A decoding step reads the
whole cache for one query a row: there memory is the limit, so it is read as it is.
"""

import inspect
import re
import sys
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "opsd_cpu"
_NAMED = re.compile(r"""_attn_implementation\s*(?:==|!=|in\b|not in\b)[^\n]*["']sdpa["']""")


def cpu_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """softmax(scale query key^T + mask) value, in float32 also within autocast; the result has the query's dtype."""
    if _decodes(query, key, attention_mask, options):
        return _one_query(query, key, value, attention_mask, options["scaling"]), None
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        wide = (query.float(), key.float(), value.float())
        output, weights = sdpa_attention_forward(module, *wide, attention_mask, **options)
    return output.to(query.dtype), weights


def _decodes(query: Tensor, key: Tensor, attention_mask: Tensor | None, options: dict[str, Any]) -> bool:
    """One new token per sequence, in bfloat16, with one mask for all heads and nothing that only transformers' function knows."""
    plain = options.get("scaling") is not None and not any(options.get(name) for name in ("dropout", "softcap"))
    plain = plain and options.get("position_bias") is None and (attention_mask is None or attention_mask.shape[1] == 1)
    return plain and query.shape[2] == 1 and query.dtype == key.dtype == torch.bfloat16 and not query.requires_grad


def _one_query(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scale: float) -> Tensor:
    """(B, 1, H, E) from query (B, H, 1, D), key (B, A, P, D) and value (B, A, P, E), where H / A heads share a key; softmax in float32."""
    B, H, _, D = query.shape
    values = value.shape[-1]  # latent attention: keys are wider than values
    query_BAGD = query.reshape(B, key.shape[1], -1, D)
    scores_BAGP = (query_BAGD @ key.transpose(2, 3)).float() * scale
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores_BAGP = scores_BAGP.masked_fill(~attention_mask, -torch.inf)
    elif attention_mask is not None:
        scores_BAGP = scores_BAGP + attention_mask.float()
    return (torch.softmax(scores_BAGP, dim=-1).to(value.dtype) @ value).view(B, 1, H, values)


def use_cpu_attention(model: PreTrainedModel) -> None:
    """Let a model on a CPU that uses torch's attention use this one; any other model stays as it is.

    So does a model whose code asks for torch's attention by name (sparse attention does): under another name it would compute
    something else.
    """
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa" and not _asks_for_name(model):
        model.set_attn_implementation(NAME)


def use_own_attention(model: PreTrainedModel) -> None:
    """Go back to torch's attention where this one is in use."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa")


def _asks_for_name(model: PreTrainedModel) -> bool:
    modules = {type(module).__module__ for module in model.modules()}
    sources = [inspect.getsource(sys.modules[name]) for name in modules if name.startswith(("transformers.models.", "transformers_modules."))]
    return any(_NAMED.search(source) for source in sources)


AttentionInterface.register(NAME, cpu_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
