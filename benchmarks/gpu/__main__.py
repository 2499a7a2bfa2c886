"""Measure one GPU and write a page: `python -m benchmarks.gpu --output FOLDER`; nothing is fetched.

Every part runs in a process of its own and within its time, so a part that fails or hangs costs its own rows only. Results are
written after each part: what a machine that is taken away has measured stays. `--device cpu` proves the same code in small.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers

from benchmarks.gpu.parts import PARTS, Rows
from benchmarks.gpu.sizes import CPU, GPU

ROOT = Path(__file__).resolve().parents[2]


def measured(name: str, device: str, seconds: float) -> Rows:
    """The rows of one part, from its own process; a row with the reason where there are none."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", device, "--only", name]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return [{"not measured": f"it took longer than {seconds:.0f} seconds"}]
    if done.returncode:
        return [{"not measured": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300]}]
    return json.loads(done.stdout.splitlines()[-1])


def machine(device: str) -> str:
    """Card, versions and processor in a line."""
    card = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    return f"{card}, {os.cpu_count()} cores, {versions}"


def page(device: str, results: dict[str, Rows]) -> str:
    """All tables as Markdown."""
    shows = "**Shows:** what one device does, of random weights in real shapes; best of the repeats."
    lines = [f"# GPU: {machine(device)}", "", shows, ""]
    lines += [f"    python -m benchmarks.gpu --device {device}", ""]
    for name, rows in results.items():
        lines += [f"## {PARTS[name].title}", "", *table(rows), ""]
    return "\n".join(lines)


def table(rows: Rows) -> list[str]:
    """Rows of equal keys as a Markdown table."""
    names = list(rows[0])
    body = ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *body]


def main() -> int:
    """All parts, or one; returns the exit status: 1 when a part was not measured or a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything; a part gets its share at most")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, help="folder for results.json and page.md")
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu proves the same code in small.")
    if chosen.only:
        print(json.dumps(PARTS[chosen.only].rows(GPU if chosen.device == "cuda" else CPU)))
        return 0
    results, end = {}, time.monotonic() + chosen.seconds
    for name in chosen.parts:
        began = time.monotonic()
        results[name] = measured(name, chosen.device, max(5.0, min(PARTS[name].seconds * 2, end - began)))
        print("\n".join([f"{PARTS[name].title} ({time.monotonic() - began:.0f} s)", *table(results[name]), ""]), flush=True)
        if chosen.output:
            chosen.output.mkdir(parents=True, exist_ok=True)
            (chosen.output / "results.json").write_text(json.dumps({"machine": machine(chosen.device), **results}, indent=1))
            (chosen.output / "page.md").write_text(page(chosen.device, results))
    wrong = ("not measured", "failed", "error")
    bad = [name for name, rows in results.items() if any(row.get(word) for row in rows for word in wrong)]
    if bad:
        print(f"not measured or failed: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
