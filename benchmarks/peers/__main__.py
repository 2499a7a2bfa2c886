"""opsd beside the programs that its users would pick instead, on this machine, in one run.

    python -m benchmarks.peers                         every part, three rounds: an hour on two cores
    python -m benchmarks.peers --quick                 small sizes, two rounds: minutes
    python -m benchmarks.peers --parts step rollouts   some parts
    python -m benchmarks.peers --output table.md       also write the tables

TRL gets an environment of its own (.venv-trl, or OPSD_TRL_ENV), made by the first run and kept; vLLM is measured where `make
engine-vllm` has installed it. Every arm runs in a process of its own on the same weights, prompts and completions, in the same
dtype; the arms of a case take turns, so that a busy moment of the machine meets all of them. CPU seconds are those of a process
and all that it starts. The first small call of every arm and vLLM's start are not counted.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.objective import processor
from benchmarks.peers.arms import MODULE, PARTS, PROMPTS, STEPS, Arm, Case
from benchmarks.peers.clock import FIGURES
from benchmarks.peers.environments import ROOT, interpreter
from benchmarks.peers.inputs import write_inputs
from benchmarks.peers.table import table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, help="runs of every arm (3; 2 with --quick)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    size = "quick" if options.quick else "whole"
    rounds = options.rounds or (2 if options.quick else 3)
    lines = [f"{processor()}, {options.threads} threads, torch {torch.__version__}, {rounds} rounds, medians.", ""]
    with TemporaryDirectory() as folder:
        if {"step", "rollouts"} & set(options.parts):
            (rows, length), (items, _) = STEPS[size], PROMPTS[size]
            rows = rows if "step" in options.parts else 0
            write_inputs(Path(folder), ROOT / ".opsd/cache/downloads", rows=rows, tokens=length, items=items)
        for part in options.parts:
            lines += [f"## {part.capitalize()}", ""]
            for case in PARTS[part](size):
                lines += measured(case, rounds, {"folder": folder, "threads": options.threads})
    text = "\n".join(lines)
    print(text)
    if options.output:
        options.output.write_text(text)


def measured(case: Case, rounds: int, common: dict[str, Any]) -> list[str]:
    """The table of a case, whose arms take turns."""
    runs: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        for arm in case.arms:
            if python := interpreter(arm.environment):
                made = run(python, arm, {**common, **case.spec, **arm.spec})
                runs.setdefault(arm.name, []).append(made)
                of = f"{case.name}: {arm.name}, round {number + 1} of {rounds}"
                print(f"{of}: {made['tokens'] / made['cpu']:.1f} tokens per CPU s", file=sys.stderr, flush=True)
    return table(case, runs)


def run(python: Path, arm: Arm, spec: dict[str, Any]) -> dict[str, float]:
    """One arm in a process of its own. SystemExit with the end of what it said when it fails."""
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-m", MODULE + arm.module, json.dumps(spec)]
    done = subprocess.run(command, env=environ, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    figures = [line.removeprefix(FIGURES) for line in done.stdout.splitlines() if line.startswith(FIGURES)]
    if done.returncode or not figures:
        sys.exit(f"opsd: {arm.name} failed with status {done.returncode}. The end of what it said:\n{done.stderr[-3000:]}")
    return json.loads(figures[-1])


if __name__ == "__main__":
    main()
