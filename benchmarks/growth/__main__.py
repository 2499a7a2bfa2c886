"""How a step grows with its tokens and rollouts with their prompts: CPU seconds and memory, as a table and a plot.

    python -m benchmarks.growth [--output FOLDER]      five minutes on two quiet cores

SmolLM2-135M-Instruct in bfloat16; completions of 128 tokens in a step, of at most 32 in rollouts. Every size runs in a process
of its own (`benchmarks.peers`). `tests/test_growth.py` holds the same to counts of work, which no other program disturbs.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure

from benchmarks.peers.__main__ import run
from benchmarks.peers.arms import Arm
from benchmarks.peers.environments import ROOT
from benchmarks.peers.inputs import write_inputs
from opsd_core.plots import COLOURS

LENGTH, NEW = 128, 32
STEPS = (2, 4, 8, 16, 32)
"""Completions of a step."""
PROMPTS = (64, 128, 256, 512)
Curve = tuple[str, Arm, dict[str, Any], tuple[int, ...]]
"""What is counted along it, who is measured, how, and the numbers of rows."""
CURVES: dict[str, Curve] = {
    "a step": ("trained tokens", Arm("opsd", "own", "own_step"), {"mode": "full", "length": LENGTH}, STEPS),
    "rollouts": ("prompts", Arm("opsd", "own", "own_rollouts"), {"length": NEW, "top_k": 20}, PROMPTS),
}


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder for growth.md and growth.png")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    lines, figure = [], Figure(figsize=(8, 3.4), layout="constrained")
    with TemporaryDirectory() as folder:
        write_inputs(Path(folder), ROOT / ".opsd/cache/downloads", rows=max(STEPS), tokens=LENGTH, items=max(PROMPTS))
        for (title, curve), axes in zip(CURVES.items(), figure.subplots(1, 2), strict=True):
            lines += _measured(title, curve, {"folder": folder, "threads": options.threads, "dtype": "bfloat16"}, axes)
    print("\n".join(lines))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "growth.md").write_text("\n".join(lines))
        figure.savefig(options.output / "growth.png", dpi=110)


def _measured(title: str, curve: Curve, common: dict[str, Any], axes: Any) -> list[str]:
    unit, arm, spec, sizes = curve
    lines = [f"| {title}: {unit} | CPU s | tokens / CPU s | extra MiB |", "|---|---|---|---|"]
    found = []
    for rows in sizes:
        print(f"{title}: {rows} rows", file=sys.stderr, flush=True)
        made = run(Path(sys.executable), arm, {**common, **spec, "rows": rows})
        found.append((made["tokens"] if unit == "trained tokens" else rows, made["cpu"], made["extra_mib"]))
        speed = made["tokens"] / made["cpu"]
        lines.append(f"| {found[-1][0]:,} | {made['cpu']:.1f} | {speed:.1f} | {made['extra_mib']:,.0f} |")
    x, cpu, memory = zip(*found, strict=True)
    axes.plot(x, cpu, "o-", color=COLOURS[0])
    axes.set(xlabel=unit, ylabel="CPU seconds", title=title, xlim=0, ylim=0)
    beside = axes.twinx()
    beside.plot(x, memory, "s--", color=COLOURS[1])
    beside.set(ylabel="extra MiB (dashed)", ylim=(0, 1.5 * max(memory)))
    return [*lines, ""]


if __name__ == "__main__":
    main()
