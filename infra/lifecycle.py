"""Start, stop and inspect the embedded stack as a whole.

`up` starts what is missing in parallel, waits until each service really serves, and prepares Prefect; called again it
changes nothing. `down` stops everything, also what a crash left behind.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from infra import processes
from infra.access.servers import check_unchanged
from infra.services import SERVERS, SERVICES, Service, answers, describe, leftovers, scratch
from infra.state import State, port_is_free
from opsd_core.digest import digest
from opsd_core.errors import ServiceError

_START_TIMEOUT_S = 180.0
_POLL_S = 0.25
_DEPLOYED_FILES = ("prefect.yaml", "flows/**/*.py", "opsd_core/config/**/*.py")


@dataclass(frozen=True)
class Report:
    """State of one service: `running`, `starting or ill`, `stopped` or `external`."""

    name: str
    state: str
    url: str
    pid: int | None
    log: Path | None


def up(state: State, environ: Mapping[str, str], *, worker: bool) -> list[str]:
    """Start every missing service, wait until all serve; returns the names of those started.

    With `worker`, the deployments of prefect.yaml are registered and a worker is started as well. What this call
    started is stopped again when it fails. Raises ServiceError naming the service, its log and the likely cause.
    """
    with _exclusive(state):
        external = state.external(environ)
        _check_external(external)
        check_unchanged(state, environ, any(processes.find(state.root, name) for name in SERVERS))
        variables = {**environ, **state.write_env(environ)}
        names = [name for name in SERVERS if name not in external] + ["worker"] * worker
        services = {name: describe(name, state, environ) for name in names}
        missing = [name for name in names if processes.find(state.root, name) is None]
        started: list[str] = []

        def start(name: str) -> None:
            started.append(name)
            service = services[name]
            processes.spawn(state.root, name, service.command, service.environ, service.cwd)

        def use_prefect() -> None:
            _prepare_prefect(state, variables, again="prefect" in external)
            if worker:
                if "worker" in missing:
                    start("worker")
                _deploy(state, variables, again="prefect" in external)

        try:
            for name in missing:
                processes.stop(state.root, name)  # children that a crash left behind
                _check_ports(state, services[name])
            for name in missing:
                if name != "worker":
                    start(name)
            _wait_for_all(state, {name: services[name] for name in names if name != "worker"}, use_prefect)
            if worker:
                _wait_ready(state, services["worker"], Event())
        except BaseException:
            for name in reversed(started):
                processes.stop(state.root, name)
            raise
    return started


def down(state: State, patience_s: float = 15.0) -> list[str]:
    """Stop every service of this stack, the worker and its runs first; returns the names of those that ran."""
    with _exclusive(state), ThreadPoolExecutor(len(SERVERS)) as pool:
        stopped = ["worker"] if processes.stop(state.root, "worker", patience_s) else []
        found = list(pool.map(lambda name: processes.stop(state.root, name, patience_s), SERVERS))
        for path in leftovers(state):
            path.unlink(missing_ok=True)
        shutil.rmtree(scratch(state), ignore_errors=True)
        return stopped + [name for name, ran in zip(SERVERS, found, strict=True) if ran]


def status(state: State, environ: Mapping[str, str]) -> list[Report]:
    """One report per service, in the order of SERVICES."""
    external = state.external(environ)
    reports = []
    for name in SERVICES:
        if name in external:
            reports.append(Report(name, "external", external[name], None, None))
            continue
        process = processes.find(state.root, name)
        ready = process is not None and describe(name, state, environ).is_ready()
        condition = "running" if ready else "starting or ill" if process else "stopped"
        log = processes.log_path(state.root, name)
        reports.append(Report(name, condition, state.urls.get(name, ""), process.pid if process else None, log))
    return reports


def _check_ports(state: State, service: Service) -> None:
    if taken := [port for port in service.ports if not port_is_free(port)]:
        raise ServiceError(
            f"{service.name} cannot start: another program listens on port {taken[0]} of this machine. "
            f"Stop that program, or remove {state.root / 'ports.json'} while the stack is down to choose new ports."
        )


def _wait_for_all(state: State, services: Mapping[str, Service], use_prefect: Callable[[], None]) -> None:
    """Wait for all servers at once and use Prefect as soon as it serves; the first failure ends all waiting."""
    given_up = Event()
    with ThreadPoolExecutor(len(SERVERS)) as pool:
        waits = {pool.submit(_wait_ready, state, service, given_up): name for name, service in services.items()}
        try:
            if "prefect" not in services:
                use_prefect()
            for done in as_completed(waits):
                done.result()
                if waits[done] == "prefect":
                    use_prefect()
        finally:
            given_up.set()


def _wait_ready(state: State, service: Service, given_up: Event) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not service.is_ready() and not given_up.is_set():
        if processes.find(state.root, service.name) is None:
            raise ServiceError(_failure(state, service, "ended while starting"))
        if time.monotonic() > deadline:
            raise ServiceError(_failure(state, service, f"did not serve within {_START_TIMEOUT_S:.0f} s"))
        time.sleep(_POLL_S)


def _failure(state: State, service: Service, what: str) -> str:
    log = processes.log_path(state.root, service.name)
    return f"{service.name} {what}. The end of {log}:\n{processes.last_lines(state.root, service.name)}"


def _check_external(external: Mapping[str, str]) -> None:
    pages = {"prefect": ("PREFECT_API_URL", "/health"), "mlflow": ("MLFLOW_TRACKING_URI", "/health")}
    for name, (variable, page) in pages.items():
        url = external.get(name, "")
        if url.startswith("http") and not answers(url + page, timeout_s=10):
            raise ServiceError(
                f"{variable} names an external {name} server at {url.rpartition('@')[2]}, which does not answer GET "
                f"{page}. Start it, correct {variable}, or unset {variable} to use the embedded server."
            )


def _prepare_prefect(state: State, variables: Mapping[str, str], *, again: bool) -> None:
    """Create work pool and queues, once per database of the embedded server."""
    program = "".join((Path(__file__).parent / name).read_text() for name in ("bootstrap.py", "access/job_template.py"))
    _once(
        state.root / "prefect" / "prepared",
        digest([variables["PREFECT_API_URL"], program, variables.get("OPSD_MODEL_JOBS", "")]),
        lambda: _run(variables, state.home, "infra.bootstrap"),
        again=again,
    )


def _deploy(state: State, variables: Mapping[str, str], *, again: bool) -> None:
    """Register the deployments of prefect.yaml when what they are made of has changed."""
    # Without OPSD_HOME the project folder stays a variable that every worker resolves for itself.
    elsewhere = {name: value for name, value in variables.items() if name != "OPSD_HOME"}
    content = {str(path.relative_to(state.home)): path.read_text() for path in deployed_files(state.home)}
    _once(
        state.root / "prefect" / "deployed",
        digest([variables["PREFECT_API_URL"], content]),
        lambda: _run(elsewhere, state.home, "prefect", "--no-prompt", "deploy", "--all"),
        again=again,
    )


def deployed_files(home: Path) -> list[Path]:
    """What the registered deployments and their forms are made of."""
    return sorted(path for pattern in _DEPLOYED_FILES for path in home.glob(pattern))


def _once(stamp: Path, token: str, action: Callable[[], None], *, again: bool) -> None:
    if again or not stamp.exists() or stamp.read_text() != token:
        action()
        stamp.write_text(token)


def _run(variables: Mapping[str, str], cwd: Path, *arguments: str) -> None:
    command = (sys.executable, "-m", *arguments)
    result = subprocess.run(command, env=dict(variables), cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ServiceError(f"`{' '.join(command[1:])}` failed:\n{(result.stdout + result.stderr).strip()[-3000:]}")


@contextmanager
def _exclusive(state: State) -> Iterator[None]:
    """Hold the stack's lock, so that two commands never start or stop services at the same time."""
    descriptor = os.open(state.root / "run" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with suppress(InterruptedError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
