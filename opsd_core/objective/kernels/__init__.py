"""Kernels for the rows of a strip: which tensors have some, and whether they can be trusted on the device at hand."""

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor


def kernels_for(logits_RV: Tensor) -> ModuleType | None:
    """The module of kernels for float32 rows on this tensor's GPU; None where torch does the work.

    The first call on a device compares every kernel with torch there. A machine that cannot build them (no compiler), or on
    which they give other numbers, is warned of once and goes on with torch.
    """
    if not logits_RV.is_cuda or logits_RV.dtype != torch.float32 or logits_RV.stride(-1) != 1:
        return None
    return _trusted(logits_RV.device)


@cache
def _trusted(device: torch.device) -> ModuleType | None:
    if find_spec("triton") is None:
        return None
    try:
        rows = import_module("opsd_core.objective.kernels.rows")
        difference = import_module("opsd_core.objective.kernel_check").largest_difference(rows, device)
    except Exception as error:  # whatever a compiler, a driver or another version of Triton raises
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    else:
        if difference <= 1e-5:
            return rows
        reason = f"they differ from torch by {difference:.1e}, where 1e-5 is the limit"
    warnings.warn(
        f"The objective's kernels cannot be used on {device} ({reason}), so torch does their work: same results, several times "
        "slower. Triton needs a C compiler and Python's headers on the machine.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None
