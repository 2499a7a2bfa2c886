"""Work that is counted and not timed: multiplications of matrix products, and the largest tensor that an operation makes."""

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_FACTORS = {"mm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2)}
"""Operations on two factors, and which of their arguments those are."""


class Work(TorchDispatchMode):
    """Counts what runs within it: `multiplications`, and `largest`, the numbers of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplications, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _FACTORS:
            left, right = (args[place] for place in _FACTORS[name])
            self.multiplications += math.prod(left.shape) * right.shape[-1]
        elif name.startswith("_scaled_dot_product"):
            query, key, value = args[1:4] if name.endswith("backward") else args[:3]
            self.multiplications += math.prod(query.shape[:3]) * key.shape[2] * (query.shape[3] + value.shape[3])
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return made
