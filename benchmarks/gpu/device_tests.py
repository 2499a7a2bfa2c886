"""The tests that need a CUDA device, run here: `pytest -m gpu`, without the session's servers."""

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.parts import Rows
from benchmarks.gpu.sizes import Size

ROOT = Path(__file__).resolve().parents[2]
FILES = ("tests/core/models/test_device.py", "tests/core/objective/test_kernels.py", "tests/core/parallel/test_offload.py")


def rows(size: Size) -> Rows:
    """One row: how many tests passed, failed and were skipped. On a CPU their twins."""
    marked = "gpu" if size.device == "cuda" else "not gpu"
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-m", marked, *FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = {kind: 0 for kind in ("passed", "failed", "skipped", "error")}
    for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout):
        counts[kind] = int(number)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return [{**counts, "which": "; ".join(failed)[:500] or (done.stderr.strip()[-300:] if done.returncode else "")}]
