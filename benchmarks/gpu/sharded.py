"""FSDP2 on one device: memory and time with the parts on the device, in the host's memory, and without parts.

NCCL refuses two processes on one device. gloo adds up and gathers CUDA tensors by way of the host, so two processes are measured
with it where torch's gloo takes them: what they learn is compared, their time is not that of two devices.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from benchmarks.gpu.model import random_policy
from benchmarks.gpu.parts import Rows
from benchmarks.gpu.sizes import CPU, GPU, Size
from benchmarks.gpu.step import items_of
from opsd_core.config import resolve
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.parallel.together import FullySharded
from opsd_core.training.ranks import Ranks
from opsd_core.training.trainer import Schedule, distil

STEPS = 3
ARMS = {"one process": (1, "alone"), "sharded": (1, "near"), "offloaded": (1, "far"), "two processes on it": (2, "near")}
"""Processes, and where the parts are."""


class Trained(NamedTuple):
    """What the first process saw."""

    losses: list[float]
    peak: int
    """Most bytes of the device's memory while it trained; 0 on a CPU."""
    seconds: float
    """Of the last step."""


def rows(size: Size) -> Rows:
    """A row for each arm."""
    found = []
    for name, (processes, where) in ARMS.items():
        row = {"arm": name, "last loss": "", "peak GiB": "", "ms a step": "", "not possible": ""}
        try:
            made = trained(size.device, where, processes)
            figures = (round(made.losses[-1], 6), round(made.peak / 2**30, 3), round(1e3 * made.seconds, 1))
            row |= dict(zip(("last loss", "peak GiB", "ms a step"), figures, strict=True))
        except RuntimeError as error:
            if processes == 1:
                raise
            row["not possible"] = str(error)[-200:]
        found.append(row)
    return found


def trained(device: str, where: str, processes: int = 1) -> Trained:
    """A few steps in processes of their own. RuntimeError with the last of what they said when one fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", "benchmarks.gpu.sharded", device, where, folder]
        environ = os.environ | {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "Error" in line] or [f"exit status {done.returncode}"]
            raise RuntimeError(said[0])
        return Trained(**json.loads((Path(folder) / "found.json").read_text()))


def train(size: Size, where: str, folder: Path) -> None:
    """What one of the processes does."""
    if size.device == "cuda":
        torch.cuda.set_device(0)
    alone = dist.get_world_size() == 1
    ranks = Ranks() if where == "alone" else FullySharded(torch.device(size.device), offload=where == "far")
    dtype = str(size.dtype).removeprefix("torch.")
    config = resolve("tiny", {
        "control": True, "model": {"dtype": dtype, "device": size.device}, "distillation": {"targets": "online"},
        "rollout": {"max_completion_length": size.length}, "optimizer": {"num_steps": STEPS, "batch_size": size.batch},
        "execution": {"microbatch_tokens": 2 * size.batch * size.length},
    })  # fmt: skip
    student, teacher, log = random_policy(size, torch.float32), FixedTeacher(random_policy(size, size.dtype)), []
    if size.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    distil(
        student, teacher, items_of(size, student), config, Schedule(0, STEPS), 0, ranks=ranks,
        on_step=lambda _, metrics: log.append((metrics["distillation/loss"], metrics["time/step_seconds"])),
    )  # fmt: skip
    if dist.get_rank() == 0:
        peak = torch.cuda.max_memory_allocated() if size.device == "cuda" and alone else 0
        facts = {"losses": [loss for loss, _ in log], "peak": peak, "seconds": log[-1][1]}
        (folder / "found.json").write_text(json.dumps(facts))


def main(device: str, where: str, folder: Path) -> None:
    """The process group, and the steps."""
    several = int(os.environ["WORLD_SIZE"]) > 1
    dist.init_process_group("gloo" if several or device == "cpu" else "cpu:gloo,cuda:nccl")
    train(GPU if device == "cuda" else CPU, where, folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
