"""Starts the processes of a distillation with torch's own launcher, hears what they say, and ends them all, come what may."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

import opsd_core.errors
from opsd_core.config import ModelConfig
from opsd_core.errors import ConfigError, OpsdError, TrainingError
from opsd_core.models.policy import resolve_device
from opsd_core.training.parallel.job import Job, heard

_PAUSE_S = 0.05
_KEPT_OUT = ("PREFECT_", "MLFLOW_", "AWS_", "OPSD_")
"""Environment that training has no use for: addresses and credentials of servers."""

Listener = Callable[[dict[str, Any]], None]


def check_ranks(ranks: int, config: ModelConfig, offload: bool = False) -> None:
    """ConfigError when this machine has fewer CUDA devices than processes, or none to offload from."""
    if offload and resolve_device(config).type != "cuda":
        raise ConfigError(
            f"execution.offload=true takes what is trained from a GPU into the host's memory, but with "
            f"model.device={config.device} it is there already. Set execution.offload=null."
        )
    if resolve_device(config).type == "cuda" and ranks > torch.cuda.device_count():
        raise ConfigError(
            f"execution.ranks={ranks}, but this machine has {torch.cuda.device_count()} CUDA devices and each process needs one "
            "of its own. Lower execution.ranks, or set model.device=cpu."
        )


def train_together(job: Job, folder: Path, ranks: int, listener: Listener) -> None:
    """Train `job`, whose items lie in `folder`, in as many processes; the final state is in `folder/state`.

    `listener(event)` gets steps, probes and checkpoints as they come; what it raises ends the processes. Where memory does not
    suffice they begin again at the last checkpoint with smaller microbatches, which is told as `again`; the loss is the same.
    Raises what ended a process, TrainingError where that is none of opsd's errors.
    """
    check_ranks(ranks, job.config.model, job.offload)
    steps = 0

    def hear(event: dict[str, Any]) -> None:
        nonlocal steps, job
        if event["kind"] == "step":
            number = event["step"] - job.schedule.first_step + 1
            if number <= steps:
                return  # it was told before the processes began again
            steps = number
        if event["kind"] == "checkpoint":
            job = replace(job, resume_from=str(folder / str(event["done"])), probes=None)
        listener(event)

    while failure := _once(job, folder, ranks, hear):
        if "microbatch_tokens" not in failure:
            raise _as_error(failure, folder)
        job = replace(job, most_tokens=failure["microbatch_tokens"])
        listener({"kind": "again", "microbatch_tokens": job.most_tokens})


def _once(job: Job, folder: Path, ranks: int, hear: Listener) -> dict[str, Any] | None:
    """One start of all processes, to the end; what ended one of them early."""
    for old in (*folder.glob("failed-*.json"), folder / "events.jsonl"):
        old.unlink(missing_ok=True)
    job.write(folder)
    place = 0
    with _started(folder, ranks) as process:
        while True:
            ended = process.poll() is not None or any(folder.glob("failed-*.json"))
            for behind, event in heard(folder, place):
                place = behind
                hear(event)
                if event["kind"] == "done":
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(60)
                    return None
            if ended:
                return _failure(folder, process)
            time.sleep(_PAUSE_S)


def _failure(folder: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("failed-*.json"))]
    said = [failure for failure in found if failure["out_of_memory"] or failure["error"] in vars(opsd_core.errors)]
    said = [failure for failure in said if "microbatch_tokens" in failure] or said  # the others are what comes of it
    if said or found:
        return (said or found)[0]
    code = process.poll()
    return {"error": "ended", "message": f"the processes ended with code {code}", "out_of_memory": False}


def _as_error(failure: dict[str, Any], folder: Path) -> OpsdError:
    kind = vars(opsd_core.errors).get(failure["error"])
    if isinstance(kind, type) and issubclass(kind, OpsdError):
        return kind(failure["message"])
    if failure["out_of_memory"]:
        return TrainingError(
            f"out of memory before the first step, or in what smaller microbatches do not help: {failure['message']:.300} Set "
            "execution.gradient_checkpointing=true, execution.parallel=fsdp, more execution.ranks, or train adapters "
            "(model.lora.rank)."
        )
    log = (folder / "log.txt").read_text(errors="replace")[-2000:]
    return TrainingError(
        f"distillation in several processes ended: {failure['error']}: {failure['message']}. The end of what they said: {log}"
    )


@contextmanager
def _started(folder: Path, ranks: int) -> Iterator[subprocess.Popen[bytes]]:
    """torch's launcher in a session of its own; afterwards neither it nor any process of its is left."""
    pipe = folder / "alive"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o600)
    held = os.open(pipe, os.O_RDWR)  # reading too, so that it does not wait for a reader
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_KEPT_OUT)}
    environ |= {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // ranks)), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "opsd_core.training.parallel.entry", str(folder)]
    process = None
    try:
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
            )
        yield process
    finally:
        os.close(held)
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the launcher and everything that it started; each of these is in a session of its own."""
    members: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        members = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in members:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(members, timeout=10)
