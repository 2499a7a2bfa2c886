"""Kernels for the rows of a strip: which tensors have some, and whether they can be trusted on the device at hand."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from opsd_core.objective.trust import agrees

_LIMIT = 1e-5


def kernels_for(logits_RV: Tensor) -> ModuleType | None:
    """The module of kernels for float32 rows on this tensor's GPU; None where torch does the work.

    The first call on a device compares every kernel with torch. A machine that cannot build them, or on which they give other
    numbers, is warned of once and goes on with torch.
    """
    if not logits_RV.is_cuda or logits_RV.dtype != torch.float32 or logits_RV.stride(-1) != 1:
        return None
    return _trusted(logits_RV.device)


@cache
def _trusted(device: torch.device) -> ModuleType | None:
    if find_spec("triton") is None:
        return None

    def difference() -> float:
        check, kernels = (import_module(f"opsd_core.objective.{name}") for name in ("kernel_check", "kernels.rows"))
        return check.largest_difference(kernels, device)

    cost = "torch does their work: same results, several times slower. Triton needs a C compiler and Python's headers."
    if not agrees("The objective's kernels", difference, _LIMIT, device, cost):
        return None
    return import_module("opsd_core.objective.kernels.rows")
