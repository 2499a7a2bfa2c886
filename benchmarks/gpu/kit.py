"""Pack what a CUDA machine without a network needs: `make gpu-kit`, or `python -m benchmarks.gpu.kit FOLDER`.

The machine has Python 3.12 with torch, transformers, peft and pyarrow. The folder has this project's method, its measurements
and the packages that are missing there, as wheels: at most 50 MiB. On the machine:

    sh FOLDER/run.sh RESULTS        results.json and page.md, in at most eight minutes
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("opsd_core", "benchmarks", "tests/core", "pyproject.toml")
PACKAGES = (
    "annotated-types", "antlr4-python3-runtime", "datasets", "dill", "gguf", "latex2sympy2-extended", "math-verify",
    "multiprocess", "nvidia-ml-py", "psutil", "pydantic", "pydantic-core", "pytest-timeout", "transformers", "typing-inspection",
)  # fmt: skip
"""What opsd_core imports and such a machine lacks, or has in a version that may be too old."""
EXTRA = ("liger-kernel==0.6.4", "trl==1.16.0")
"""What the objective is measured against."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MOST_BYTES = 50 << 20
RUN = """#!/bin/sh
# Measure this machine's GPU: sh run.sh RESULTS. Nothing is fetched.
set -eu
kit=$(cd "$(dirname "$0")" && pwd)
results=${1:-$kit/results}
mkdir -p "$results"
results=$(cd "$results" && pwd)
site=$(mktemp -d)
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$kit"/wheels/*.whl
export PYTHONPATH="$site:$kit"
cd "$kit" && python3 -m benchmarks.gpu --output "$results"
"""


def pinned() -> list[str]:
    """The packages at the versions of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    versions = dict(line.partition(";")[0].strip().split("==") for line in lines if "==" in line and not line.startswith("#"))
    return [f"{name}=={versions[name]}" for name in PACKAGES]


def pack(folder: Path, python: str) -> int:
    """Fill the folder; returns its bytes. SystemExit when it holds something already, or becomes too large."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"opsd: {folder} is not empty. Name a new folder, or delete it.")
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    target += [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", *target]
    subprocess.run([*command, "--dest", str(folder / "wheels"), *pinned(), *EXTRA], check=True)
    (folder / "run.sh").write_text(RUN)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        raise SystemExit(f"opsd: {folder} holds {size / 2**20:.0f} MiB; the kit's limit is {MOST_BYTES / 2**20:.0f}.")
    return size


def main() -> None:
    """Pack, and say what to do with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="of the machine")
    chosen = parser.parse_args()
    size = pack(chosen.folder, chosen.python)
    print(f"{chosen.folder} ({size / 2**20:.1f} MiB): copy it to the machine, and there: sh {chosen.folder.name}/run.sh results")


if __name__ == "__main__":
    main()
