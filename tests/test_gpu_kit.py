"""pytest tests/test_gpu_kit.py — what is measured on a GPU, in small, with the packages that a machine has or the kit brings."""

import json
import math
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import page, table
from benchmarks.gpu.kit import PACKAGES, pack, pinned
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.sharded import ARMS, STEPS, trained
from benchmarks.gpu.sizes import CPU

ROOT = Path(__file__).resolve().parent.parent
THERE = {"accelerate", "jinja2", "numpy", "peft", "pyarrow", "pytest", "safetensors", "scipy", "tokenizers", "torch", "tqdm"}
THERE |= {"triton", "huggingface_hub", "sentencepiece", "yaml", "regex", "sympy"}
"""What a machine for deep learning has; anything else must travel."""
MEASURED = """
import ast, json, sys
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.sizes import CPU
import benchmarks.gpu.learning
rows = {name: PARTS[name].rows(CPU) for name in ("objective", "step", "rollouts")}
mine = ("opsd_core", "benchmarks")
ours = [m for name, m in sys.modules.items() if name.split(".")[0] in mine and getattr(m, "__file__", None)]
used = set()
for module in ours:
    for node in ast.parse(open(module.__file__).read()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        used |= {name.split(".")[0] for name in names}
print(json.dumps([rows, sorted(used - sys.stdlib_module_names - {"opsd_core", "benchmarks"})]))
"""


@pytest.fixture(scope="module")
def measured():
    """The rows of three parts, and the packages that the code behind them imports when it is loaded."""
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results(measured):
    return measured[0]


def test_what_is_imported_is_on_the_machine_or_travels(measured):
    owners = packages_distributions()
    missing = {module for module in measured[1] if module not in THERE and not {*owners[module]} & {*PACKAGES}}
    assert not missing


def test_every_part_has_figures(results):
    arms = {(row["objective"], row["arm"]) for row in results["objective"]}
    assert {arm for _, arm in arms} == {"products", "fused", "whole", "liger", "trl"}
    peers = ("liger", "trl")
    assert all(row["ms"] == "not installed" for row in results["objective"] if row["arm"] in peers)
    numbers = [row["ms"] for row in results["objective"] if row["arm"] not in peers]
    numbers += [row["trained tokens/s"] for row in results["step"]] + [row["tokens/s"] for row in results["rollouts"]]
    assert len(numbers) == 11 and all(math.isfinite(number) and number > 0 for number in numbers)


def test_the_page_has_a_table_of_every_part(results):
    text = page("cpu", results)
    assert text.splitlines()[2].startswith("**Shows:**") and all(PARTS[name].title in text for name in results)
    assert table([{"a": 1, "b": "x"}]) == ["| a | b |", "|---|---|", "| 1 | x |"]


def test_what_travels_is_pinned_and_a_full_folder_is_left_alone(tmp_path):
    assert len(pinned()) == len(PACKAGES) and all("==" in package for package in pinned())
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="is not empty"):
        pack(tmp_path, "3.12")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_gpu_that_is_not_there_is_said_at_once():
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cuda"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2 and "there is no CUDA device here; --device cpu" in done.stderr


def test_two_processes_on_one_device_share_the_weights():
    made = trained("cpu", "near", processes=2)
    assert len(made.losses) == STEPS and all(math.isfinite(loss) and loss > 0 for loss in made.losses)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_processes_that_shard_learn_what_one_learns():
    rows = PARTS["sharded"].rows(CPU)
    assert [row["arm"] for row in rows] == list(ARMS) and not any(row["not possible"] for row in rows)
    losses = [row["last loss"] for row in rows]
    assert losses == pytest.approx([losses[0]] * len(ARMS), rel=1e-4) and losses[0] > 0


@pytest.mark.slow
def test_the_tiny_model_learns():
    (row,) = PARTS["learning"].rows(CPU)
    assert row["device"] == "cpu" and row["last loss"] < row["first loss"]
