"""The fused objective against bare matrix products, whole logits, Liger's fused JSD and TRL's chunked loss where installed."""

import importlib.util

from benchmarks.gpu.parts import Rows
from benchmarks.gpu.sizes import Size, best_of
from benchmarks.objective import make_inputs, make_step

CASES = {
    "jsd(0.5) full": ("products", "fused", "whole", "liger", "trl"),
    "forward_kl full": ("fused", "whole", "trl"),
    "forward_kl recorded K=32": ("fused", "whole"),
}
_PEERS = {"liger": "liger_kernel", "trl": "trl"}


def rows(size: Size) -> Rows:
    """One row for each number of tokens, case and arm: milliseconds, and GiB beside the inputs."""
    found = []
    for tokens in size.tokens:
        for case, arms in CASES.items():
            for arm in arms:
                found.append({"tokens": tokens, "objective": case, "arm": arm, **_measured(size, tokens, case, arm)})
    return found


def _measured(size: Size, tokens: int, case: str, arm: str) -> dict[str, float | str]:
    if arm in _PEERS and (size.device != "cuda" or not importlib.util.find_spec(_PEERS[arm])):
        return {"ms": "not installed", "GiB": ""}
    inputs = make_inputs(case, tokens, size.vocabulary, size.hidden, size.device, size.dtype)
    best = best_of(size, make_step(arm, case, inputs))
    if best is None:
        return {"ms": "out of memory", "GiB": ""}
    return {"ms": round(1e3 * best.seconds, 2), "GiB": round((best.peak - best.held) / 2**30, 3)}
