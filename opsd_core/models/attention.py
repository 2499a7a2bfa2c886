"""Attention on a CPU: in float32 whatever the model's dtype, but for single queries of a bfloat16 cache.

Matrix products with weights are several times faster in bfloat16, but torch's bfloat16 attention on a CPU rounds more than its
float32 one, and its backward pass takes two to three times as long at the lengths of distillation. A decoding step reads the
whole cache for one query a row: there memory is the limit, so it is read as it is.
"""

import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "opsd_cpu"
_LENGTHS = 64
"""Key lengths of bfloat16 decoding are multiples of this."""
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
    """(B, 1, H, E) from query (B, H, 1, D), key (B, A, P, D) and value (B, A, P, E), where H / A heads share a key; softmax in
    float32.

    Every new length of a bfloat16 product costs a kernel of megabytes that torch keeps, so both products are taken over a
    rounded length where the cache has memory behind its last position. What is there counts for nothing.
    """
    B, H, _, D = query.shape
    P, values = key.shape[2], value.shape[-1]  # latent attention: keys are wider than values
    length = min(_roomy(key), _roomy(value))
    query_BAGD = query.reshape(B, key.shape[1], -1, D)
    scores_BAGP = (query_BAGD @ _lengthened(key, length).transpose(2, 3))[..., :P].float() * scale
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores_BAGP = scores_BAGP.masked_fill(~attention_mask, -torch.inf)
    elif attention_mask is not None:
        scores_BAGP = scores_BAGP + attention_mask.float()
    weights_BAGP = torch.softmax(scores_BAGP, dim=-1).to(value.dtype)
    weights_BAGP = torch.nn.functional.pad(weights_BAGP, (0, length - P))
    return (weights_BAGP @ _lengthened(value, length)).view(B, 1, H, values)


def _roomy(states: Tensor) -> int:
    """Positions of (B, A, P, D), rounded up where its memory goes on that far."""
    length = -(-states.shape[2] // _LENGTHS) * _LENGTHS
    sizes = (*states.shape[:2], length, states.shape[3])
    end = states.storage_offset() + 1
    end += sum((size - 1) * stride for size, stride in zip(sizes, states.stride(), strict=True))
    return length if end * states.element_size() <= states.untyped_storage().nbytes() else states.shape[2]


def _lengthened(states: Tensor, length: int) -> Tensor:
    """The same memory as `length` positions; behind the last are zeros or another head's states, never rubbish."""
    if length == states.shape[2]:
        return states
    return states.as_strided((*states.shape[:2], length, states.shape[3]), states.stride())


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
    return any(_NAMED.search(source) for source in modeling_sources(model))


def modeling_sources(model: torch.nn.Module) -> list[str]:
    """The code of the modules that define the model's own layers; nothing of a module that has no source file."""
    names = {type(module).__module__ for module in model.modules()}
    files = [getattr(sys.modules[name], "__file__", None) for name in names if name.rpartition(".")[2].startswith("modeling_")]
    return [Path(file).read_text(encoding="utf-8") for file in files if file and Path(file).is_file()]


AttentionInterface.register(NAME, cpu_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
