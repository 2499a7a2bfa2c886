"""Layers that no adapter fits although they are linear."""

import re

from torch import nn
from transformers import PreTrainedModel

_STATE_SPACES = re.compile("mamba|falcon_?h1|nemotron_?h")
"""peft refuses the projections of state spaces by name: fused kernels read their weights past the adapter."""


def unfit(model: PreTrainedModel) -> list[str]:
    """Full names of linear layers to leave out of "all-linear".

    A subclass of nn.Linear with a forward pass of its own (routers return tuples, grouped projections reshape) is not what an
    adapter wraps. Projections of state spaces feed fused kernels.
    """
    names = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward:
            names.append(name)
        elif isinstance(module, nn.Linear | nn.Conv1d) and name.rpartition(".")[2] in ("out_proj", "conv1d"):
            owner = type(model.get_submodule(name.rpartition(".")[0])).__name__.lower()
            if _STATE_SPACES.search(owner) or _STATE_SPACES.search(model.config.model_type):
                names.append(name)
    return names
