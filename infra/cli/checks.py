"""What `opsd doctor` looks at: this machine, the servers, and what to do where something is missing."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import psutil
from packaging.requirements import Requirement

from infra.lifecycle import status
from infra.state import POOL, State, open_state, port_is_free, state_root
from opsd_core.config.kinds.engines import ENGINE_KINDS
from opsd_core.errors import OpsdError
from opsd_core.rollout.engines.environment import Environment
from tasks.runtime.settings import load_settings

_DISK_GB, _MEMORY_GB = 5.0, 4.0
_SHOWN = ("torch", "transformers", "prefect", "mlflow", "peft")


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    passed: bool | None
    """None: worth knowing, no fault."""
    text: str
    remedy: str = ""


def all_checks(environ: MutableMapping[str, str]) -> Iterator[Check]:
    """One after the other, so that slow ones do not hold up the rest."""
    yield _python()
    yield from _packages()
    yield _cores()
    yield _memory()
    yield _gpu()
    yield from _engines()
    try:
        state = open_state(state_root())
    except OpsdError as error:
        yield Check("state", False, str(error), "Set OPSD_STATE to a folder of your own, or repair what the message names.")
        return
    yield _disk("disk", state.root)
    yield from _servers(state, environ)
    yield _checked("prefect", _ask_prefect)
    yield _checked("mlflow", _ask_mlflow)
    yield _checked("store", lambda: _ask_store(environ))


def _python() -> Check:
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check(
        "python", sys.version_info >= (3, 11), found, "Make the environment again with Python 3.11 or newer: make venv"
    )


def _packages() -> Iterator[Check]:
    wrong = []
    for line in requires("opsd") or []:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(need.name)
        except PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name} {found} is not {need.specifier}")
    shown = ", ".join(f"{name} {version(name)}" for name in _SHOWN if not any(w.startswith(f"{name} ") for w in wrong))
    yield Check("packages", not wrong, "; ".join(wrong) or shown, "Install what pyproject.toml asks for: make venv")


def _cores() -> Check:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    busy = load > count
    text = f"{count}, load {load:.1f}"
    return Check("cores", None if busy else True, text, "Other programs use the cores; campaigns take longer." if busy else "")


def _memory() -> Check:
    free, total = (getattr(psutil.virtual_memory(), name) / 1e9 for name in ("available", "total"))
    remedy = "End other programs, or lower execution.rollout_batch_size and execution.microbatch_tokens."
    return Check("memory", True if free >= _MEMORY_GB else None, f"{free:.1f} of {total:.1f} GB free", remedy)


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("gpu", True, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi"):
        return Check(
            "gpu", None, "a driver, but torch cannot use it", "Install the matching build: UV_TORCH_BACKEND=auto make venv"
        )
    return Check("gpu", None, "none; everything runs on the CPU", "")


def _engines() -> Iterator[Check]:
    for name, kind in ENGINE_KINDS.items():
        if kind.made_by:
            found = Environment.of(name, load_settings().home).version
            yield Check(f"engine {name}", True if found else None, found or f"not installed; `{kind.made_by}` installs it")


def _disk(name: str, folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    remedy = "Free space, delete what no version needs (opsd gc --delete), or set OPSD_STATE and OPSD_CACHE to another disk."
    return Check(name, free >= _DISK_GB, f"{free:.1f} GB free at {folder}", remedy)


def _servers(state: State, environ: Mapping[str, str]) -> Iterator[Check]:
    reports = status(state, environ)
    for report in reports:
        good = report.state in ("running", "external")
        url = report.url.rpartition("@")[2]
        text = f"{report.state}{f' at {url}' if url else ''}"
        yield Check(report.name, good, text, f"Start it: opsd up{f'; its log: {report.log}' if report.log else ''}")
    down = {report.name for report in reports if report.state == "stopped"}
    taken = [port for name, port in state.ports.items() if name.partition("_")[0] in down and not port_is_free(port)]
    text = (
        f"{', '.join(map(str, taken))} taken by another program"
        if taken
        else "those of the embedded servers are theirs or free"
    )
    yield Check("ports", not taken, text, f"Stop that program, or remove {state.root / 'ports.json'} to choose others.")


def _checked(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(f"{name} says", True, ask())
    except OpsdError as error:
        return Check(f"{name} says", False, str(error), "")


def _ask_prefect() -> str:
    from infra.cli.server import prefect

    with prefect() as client:
        deployments = len(client.read_deployments())
        pool = client.read_work_pool(POOL)
    return f"{deployments} deployments, work pool {POOL!r} is {pool.status.value if pool.status else 'unknown'}"


def _ask_mlflow() -> str:
    from tasks.tracking import Tracker

    tracker = Tracker(patience_s=5.0)
    tracker.check()
    return f"credentials are accepted; {len(tracker.model_names())} registered model(s)"


def _ask_store(environ: MutableMapping[str, str]) -> str:
    from tasks.storage.s3 import open_store

    settings = load_settings(environ)
    open_store(settings.store, settings).probe()
    return f"{settings.store} can be written and read"
