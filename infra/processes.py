"""Processes that outlive the command that started them, found again after any crash and never mistaken for others.

A started process is known in two ways. Its record `run/<name>.json` holds the process id with the start time, so that
a reused id is not taken for it. And every process that descends from it carries OPSD_STACK (the state folder) and
OPSD_SERVICE (the name) in its environment, so that `stop` finds children whose parent was killed.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import psutil

from tasks.runtime.secrets import redact

Processes = dict[UUID, list[psutil.Process]]
"""Of flow runs."""
_LOG_LIMIT = 20 * 2**20
_START_TOLERANCE_S = 0.05


def program(name: str) -> str | None:
    """A program of this Python environment, else of PATH; None when there is none."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def spawn(root: Path, name: str, command: Sequence[str], environ: Mapping[str, str], cwd: Path) -> int:
    """Start `command` in its own session with its output appended to `logs/<name>.log`; returns the process id.

    Raises FileNotFoundError when the program does not exist.
    """
    log = log_path(root, name)
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=cwd,
            env={**environ, "OPSD_STACK": str(root), "OPSD_SERVICE": name},
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    record = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
    record_path(root, name).write_text(json.dumps(record))
    return process.pid


def find(root: Path, name: str) -> psutil.Process | None:
    """The recorded process if it still runs; a stale or damaged record is removed."""
    path = record_path(root, name)
    if not path.exists():
        return None
    with suppress(ValueError, KeyError, TypeError, psutil.Error):
        record = json.loads(path.read_text())
        process = psutil.Process(int(record["pid"]))
        same = abs(process.create_time() - float(record["started"])) < _START_TOLERANCE_S
        if same and _is_alive(process):
            return process
    path.unlink(missing_ok=True)
    return None


def family(root: Path, name: str) -> list[psutil.Process]:
    """Every live process that belongs to the service `name` of this stack, orphans included."""
    leader = find(root, name)
    members = {leader.pid: leader} if leader else {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environ = process.environ()
            ours = environ.get("OPSD_STACK") == str(root) and environ.get("OPSD_SERVICE") == name
            if ours and process.pid != os.getpid() and _is_alive(process):
                members[process.pid] = process
    return list(members.values())


def stop(root: Path, name: str, patience_s: float = 15.0) -> bool:
    """Ask every process of a service to end, then end it; returns whether there was one.

    Descendants are asked before the leader, so that a run in flight can still report its state.
    """
    leader = find(root, name)
    members = family(root, name)
    if leader is not None:
        members.sort(key=lambda process: process.pid == leader.pid)
    for process in members:
        with suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + patience_s
    alive = members
    while alive and time.monotonic() < deadline:
        _, alive = psutil.wait_procs(alive, timeout=0.2)
        alive = [process for process in alive if _is_alive(process)]
    while stubborn := family(root, name):
        for process in stubborn:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(stubborn, timeout=1)
    record_path(root, name).unlink(missing_ok=True)
    return bool(members)


def last_lines(root: Path, name: str, count: int = 40) -> str:
    """The end of a service's log, for messages."""
    path = log_path(root, name)
    if not path.exists():
        return "(no log)"
    return redact("\n".join(path.read_text(errors="replace").splitlines()[-count:]))


def log_path(root: Path, name: str) -> Path:
    """Where a service writes."""
    return root / "logs" / f"{name}.log"


def record_path(root: Path, name: str) -> Path:
    """Where a service's process is recorded."""
    return root / "run" / f"{name}.json"


def _is_alive(process: psutil.Process) -> bool:
    """Whether any of its threads still runs: a leader is a zombie, its ports taken, until the last thread has ended."""
    try:
        ended = process.status() == psutil.STATUS_ZOMBIE and _num_threads(process.pid) <= 1
        return process.is_running() and not ended
    except psutil.Error:
        return False


def _num_threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208
    except OSError:
        return 0


def processes_by_run() -> Processes:
    """The live processes of this machine that carry a flow run's id in their environment."""
    found: Processes = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            number = run_number(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
            if number is not None and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(number, []).append(process)
    return found


def run_number(text: str) -> UUID | None:
    """The id of a flow run; None for anything else."""
    try:
        return UUID(text)
    except ValueError:
        return None
