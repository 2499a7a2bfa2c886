"""What a GPU does faster is compared with plain float32 work on that GPU before it is used."""

import warnings
from collections.abc import Callable

import torch


def agrees(what: str, difference: Callable[[], float], limit: float, device: torch.device, cost: str) -> bool:
    """Whether `difference()` is at most `limit`; if it is not, or if it fails, a RuntimeWarning says why and what it costs.

    Whatever a compiler, a driver or another version of a library raises is such a failure: training goes on without.
    """
    try:
        found = difference()
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
    else:
        if found <= limit:
            return True
        reason = f"they differ from plain float32 by {found:.1e}, where {limit:.0e} is the limit"
    warnings.warn(f"{what} cannot be used on {device} ({reason}). {cost}", RuntimeWarning, stacklevel=3)
    return False
