"""A process whose memory is too small, without one that is: on PYTHONPATH, Python imports this at its start.

SMALL_MEMORY=rank:tokens:steps makes the process of that rank raise torch's own error for any forward pass of more padded tokens,
once it has made so many optimiser steps. FELL is a file to which it adds a line whenever it does.
"""

import os
from pathlib import Path

if os.environ.get("RANK") == os.environ.get("SMALL_MEMORY", "").partition(":")[0]:
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook

    _TOKENS, _STEPS = map(int, os.environ["SMALL_MEMORY"].split(":")[1:])
    _made = [0]

    def _count(*_: object) -> None:
        _made[0] += 1

    def _refuse(module: torch.nn.Module, args: tuple) -> None:
        if isinstance(module, torch.nn.Embedding) and args and args[0].numel() > _TOKENS and _made[0] >= _STEPS:
            with Path(os.environ["FELL"]).open("a") as file:
                file.write(f"{_made[0]} {args[0].numel()}\n")
            raise torch.OutOfMemoryError(f"{args[0].numel()} tokens")

    register_optimizer_step_post_hook(_count)
    register_module_forward_pre_hook(_refuse)
