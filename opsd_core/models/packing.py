"""Weights of a policy that only samples and scores, in the layout that a CPU's bfloat16 matrix products read.

torch rearranges a bfloat16 weight at every product; at the few rows of a decoding step that costs a fifth of the time, in which
the weights are read once more. Rearranged once, they give the same bits.
"""

import re

import torch
from torch import Tensor, nn

from opsd_core.models.attention import modeling_sources
from opsd_core.models.policy import Policy


class PackedLinear(nn.Module):
    """x (..., I) -> x @ weight.T + bias (..., O), without gradients. `weight` keeps its shape and dtype, but no values."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.weight = linear.weight.detach().to("meta")
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(self.weight.dtype), self._packed, self.bias, "none", [], "")


def packed(policy: Policy) -> Policy:
    """The policy with its linear layers packed in place where that pays: bfloat16 on a CPU, all layers but the head."""
    if policy.device.type != "cpu" or not _can_pack():
        return policy
    head = policy.causal_lm.get_output_embeddings()
    read = _weights_read(policy.causal_lm)
    for module in list(policy.causal_lm.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head and name not in read and child.weight.dtype == torch.bfloat16:
                setattr(module, name, PackedLinear(child))
    return policy


def _weights_read(model: nn.Module) -> set[str]:
    """Names of layers whose `weight` the model's code reads itself, as state spaces do: it must have values."""
    return {name for source in modeling_sources(model) for name in re.findall(r"self\.(\w+)\.weight\b", source)}


def _can_pack() -> bool:
    operations = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and all(
        hasattr(operations, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
