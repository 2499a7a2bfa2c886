"""pytest tests/core/parallel/test_together.py — two processes train what one trains: losses, weights, states, metrics."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from opsd_core.training.parallel.together import shares
from opsd_core.training.ranks import Ranks
from tests.core.parallel.cases import CASES, run

ROOT = Path(__file__).resolve().parents[3]
USUAL = {
    *("full-tied-ddp", "full-tied-fsdp", "full-untied-fsdp", "recorded-fsdp", "ema-fsdp", "adapters-ema-ddp", "adapters-ema-fsdp")
}  # fmt: skip
MODES = [
    pytest.param(name, mode, marks=[] if f"{name}-{mode}" in USUAL else pytest.mark.slow)
    for name, case in CASES.items()
    for mode in case.modes
]
LOSS, WEIGHTS = 1e-5, 1e-5
"""Of the relative difference (of losses above .1), and of the largest absolute one, after all steps."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request):
    """Every case that is asked for on one process, here, and on two: one start for all of them."""
    folder = tmp_path_factory.mktemp("trained")
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = sorted({(params["name"], params["mode"]) for params in asked if {"name", "mode"} <= params.keys()})
    for name, case in ((name, CASES[name]) for name in sorted({name for name, _ in wanted})):
        place = folder / f"{name}-one"
        save, log = run(case, Ranks(), lambda done, save, place=place: save(place / str(done)))
        save(place / "end")
        (place / "log.json").write_text(json.dumps(log))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "tests.core.parallel.cases", str(folder), *map("-".join, wanted)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


def largest_difference(one: Path, other: Path) -> float:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def metrics(folder: Path, name: str = "log.json") -> list[dict[str, float]]:
    return json.loads((folder / name).read_text())


def relative(found: dict[str, float], wanted: dict[str, float], name: str) -> float:
    return abs(found[name] - wanted[name]) / max(abs(wanted[name]), 0.1)


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_two_processes_train_what_one_trains(trained, name, mode):
    one, two = trained / f"{name}-one", trained / f"{name}-{mode}"
    steps, others = metrics(one), metrics(two)
    loss = max(relative(b, a, "distillation/loss") for a, b in zip(steps, others, strict=True))
    weights = largest_difference(one / "end" / "trainable.safetensors", two / "end" / "trainable.safetensors")
    print(f"{name:22} {mode:5} loss {loss:.1e} weights {weights:.1e}")
    assert loss <= LOSS and weights <= WEIGHTS
    if CASES[name].teacher == "ema":
        assert largest_difference(one / "end" / "teacher.safetensors", two / "end" / "teacher.safetensors") <= WEIGHTS
    moved = largest_difference(one / "8" / "trainable.safetensors", one / "end" / "trainable.safetensors")
    assert moved > 1e-3, "nothing was learned, so nothing was compared"


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_every_metric_is_that_of_the_whole_batch(trained, name, mode):
    for wanted, found in zip(metrics(trained / f"{name}-one"), metrics(trained / f"{name}-{mode}"), strict=True):
        assert wanted.keys() == found.keys()
        for key in wanted.keys() - {"time/step_seconds"}:
            assert found[key] == pytest.approx(wanted[key], rel=1e-3, abs=1e-4), key


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_state_goes_on_in_another_number_of_processes(trained, name, mode):
    """What one saved two resume, and what two saved one resumes: the same steps follow."""
    steps, resumed = metrics(trained / f"{name}-one"), metrics(trained / f"{name}-{mode}", "resumed.json")
    for wanted, found in zip(steps[8:], resumed, strict=True):
        assert relative(found, wanted, "distillation/loss") <= LOSS
    _, rest = run(CASES[name], Ranks(), None, trained / f"{name}-{mode}" / "8")
    for wanted, found in zip(steps[8:], rest, strict=True):
        assert relative(found, wanted, "distillation/loss") <= LOSS


def test_shares_hold_every_row_once_and_are_even_in_tokens():
    lengths = [5, 90, 7, 7, 30, 31, 2, 60, 1]
    for size in (1, 2, 3, 4, 9):
        rows = shares(lengths, size)
        assert sorted(row for part in rows for row in part) == list(range(len(lengths)))
        assert min(map(len, rows)) >= 1
        assert max(sum(lengths[row] for row in part) for part in rows) <= sum(lengths) / size + max(lengths)
    assert all(torch.tensor(part).diff().gt(0).all() for part in shares(lengths, 2))
