"""One arm in one process: read what is asked, measure, print one line of JSON. Runs in every peer's environment."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.clock import FIGURES, Cost

Spec = dict[str, Any]
"""folder, threads, and the case's own: dtype, sizes, mode, length, top_k."""


def inputs(spec: Spec) -> dict[str, Any]:
    """Prompts and completions, the same for every arm."""
    return json.loads((Path(spec["folder"]) / "inputs.json").read_text())


def main(run: Callable[[Spec], tuple[Cost, int, float]]) -> None:
    """`run(spec)` gives the cost of what counts, its number of tokens, and a value in which the arms must agree."""
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    cost, tokens, value = run(spec)
    numbers = {"wall": cost.wall, "cpu": cost.cpu, "extra_mib": cost.extra_mib, "peak_mib": cost.peak_mib}
    print(FIGURES + json.dumps(numbers | {"tokens": tokens, "value": value}), flush=True)
