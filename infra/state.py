"""The embedded stack's folder: ports, credentials, and the variables that clients and servers read.

    .opsd/env          client variables, credentials included (mode 0600)
    .opsd/server.env   keys and passwords that only the servers read (mode 0600)
    .opsd/ports.json   loopback ports, chosen free at the first start
    .opsd/run/         process records        .opsd/logs/   one log per service
    .opsd/s3-certificates/  keys with which the object store's parts know each other
    .opsd/{prefect,mlflow,s3}/                data

A service is external when its address is set in the environment to anything else than the embedded one; it is then
used as it is, and its local twin is never started.
"""

import json
import os
import secrets
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opsd_core.errors import ConfigError, ServiceError
from tasks.runtime.folders import named_folder
from tasks.runtime.quiet import QUIET
from tasks.runtime.secrets import CREDENTIALS, without_credentials
from tasks.runtime.settings import read_env_file, store_root

HOST = "127.0.0.1"
POOL = "opsd"
MODEL_QUEUE = "models"  # for runs that hold a model in memory; promotions use the default queue
PORTS = ("prefect", "mlflow", "worker", "s3", "s3_master", "s3_volume", "s3_filer", "s3_admin")
SERVER_SECRETS = (
    "WEED_JWT_SIGNING_KEY",
    "WEED_JWT_SIGNING_READ_KEY",
    "WEED_JWT_FILER_SIGNING_KEY",
    "WEED_JWT_FILER_SIGNING_READ_KEY",
)
PASSWORDS = ("PREFECT_PASSWORD", "MLFLOW_PASSWORD")
EVERYWHERE = "0.0.0.0"
USER = "opsd"
DEFAULT_STORE = "s3://opsd"
# SeaweedFS also listens on port + 10000, and both must stay below the range of outgoing connections (32768 and up).
_GRPC_OFFSET = 10_000
_FIRST_PORT, _LAST_PORT = 10_240, 22_700


@dataclass(frozen=True)
class State:
    """An existing state folder with its ports and secrets."""

    root: Path
    home: Path
    ports: dict[str, int]
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    server_secrets: dict[str, str] = field(repr=False)
    passwords: dict[str, str] = field(repr=False)
    """Of Prefect and MLflow, asked for on loopback too: other users and web pages reach it as well."""

    @property
    def urls(self) -> dict[str, str]:
        """Addresses of the embedded services: `prefect` (API), `mlflow`, `s3`."""
        base = {name: f"http://{HOST}:{self.ports[name]}" for name in ("prefect", "mlflow", "s3")}
        return base | {"prefect": base["prefect"] + "/api"}

    def external(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Addresses of the services that `environ` points elsewhere, without passwords: of `prefect`, `mlflow`, `s3`."""
        environ = without_credentials(environ)
        named = {
            "prefect": environ.get("PREFECT_API_URL", "").rstrip("/"),
            "mlflow": environ.get("MLFLOW_TRACKING_URI", "").rstrip("/"),
            "s3": environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or "",
        }
        if (folder := store_root(environ.get("OPSD_STORE", ""))).startswith("file:"):
            named["s3"] = folder
        return {name: url for name, url in named.items() if url and url != self.urls[name]}

    def client_variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What a client of the stack needs in its environment; credentials of external services only if in an address."""
        clean = without_credentials(environ)
        external = self.external(clean)
        urls = self.urls | external
        variables = {
            "OPSD_HOME": str(self.home),
            "OPSD_STATE": str(self.root),
            "OPSD_STORE": store_root(environ.get("OPSD_STORE") or DEFAULT_STORE),
            "OPSD_CACHE": str(named_folder("OPSD_CACHE", environ.get("OPSD_CACHE") or str(self.root / "cache"))),
            "PREFECT_HOME": str(self.root / "prefect"),
            "PREFECT_API_URL": urls["prefect"],
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "MLFLOW_TRACKING_URI": urls["mlflow"],
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            **QUIET,
            "AWS_DEFAULT_REGION": environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
        }
        if "s3" not in external:
            variables |= {
                "AWS_ENDPOINT_URL_S3": urls["s3"],
                "AWS_ACCESS_KEY_ID": self.access_key,
                "AWS_SECRET_ACCESS_KEY": self.secret_key,
            }
        elif not external["s3"].startswith("file:"):
            variables["AWS_ENDPOINT_URL_S3"] = external["s3"]
        # A password in an external address is moved to the variable made for it, so it comes along.
        variables |= {name: value for name, value in clean.items() if name in CREDENTIALS and value != environ.get(name)}
        if bind_address(environ) != HOST:
            variables["OPSD_BIND"] = bind_address(environ)
        if "prefect" not in external:
            variables["PREFECT_API_AUTH_STRING"] = f"{USER}:{self.passwords['PREFECT_PASSWORD']}"
        if "mlflow" not in external:
            variables["MLFLOW_TRACKING_USERNAME"] = USER
            variables["MLFLOW_TRACKING_PASSWORD"] = self.passwords["MLFLOW_PASSWORD"]
        return variables

    def write_env(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Record `client_variables(environ)` in the `env` file and return them."""
        variables = self.client_variables(environ)
        write_private(self.root / "env", _as_lines(variables))
        return variables


def project_home() -> Path:
    """Project folder: `OPSD_HOME`, else the folder that holds this package."""
    given = os.environ.get("OPSD_HOME")
    return named_folder("OPSD_HOME", given) if given else Path(__file__).resolve().parents[1]


def state_root() -> Path:
    """State folder: `OPSD_STATE`, else `.opsd` in the project folder."""
    given = os.environ.get("OPSD_STATE")
    return named_folder("OPSD_STATE", given) if given else (project_home() / ".opsd").resolve()


def bind_address(environ: Mapping[str, str]) -> str:
    """Where Prefect and MLflow listen: loopback, or with OPSD_BIND=0.0.0.0 on every address.

    Raises ConfigError for any other address: the clients of this machine would not find the servers there.
    """
    address = environ.get("OPSD_BIND") or HOST
    if address not in (HOST, EVERYWHERE):
        raise ConfigError(
            f"OPSD_BIND={address!r} is not served: {HOST} (this machine only) or {EVERYWHERE} (every address of "
            "this machine). For one address put a proxy with TLS in front of loopback."
        )
    return address


def open_state(root: Path, home: Path | None = None) -> State:
    """The state in `root`, created with fresh ports and credentials at the first call; `home`: the project folder.

    Raises ConfigError when a file in it is damaged, ServiceError when the folder cannot be written.
    """
    try:
        for folder in (root, *(root / name for name in ("run", "logs", "prefect", "mlflow", "s3", "cache"))):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
    except OSError as error:
        raise ServiceError(f"The state folder {root} cannot be written: {error}. Set OPSD_STATE to another.") from error
    known = read_env_file(root / "server.env")
    names = ("S3_ACCESS_KEY", "S3_SECRET_KEY", *SERVER_SECRETS)
    fresh = [name for name in (*(() if known else names), *PASSWORDS) if name not in known]
    if fresh:
        known |= {name: secrets.token_hex(20) for name in fresh}
        write_private(root / "server.env", _as_lines(known))
    if missing := [name for name in names if not known.get(name)]:
        raise ConfigError(f"{root / 'server.env'} lacks {', '.join(missing)}. Restore it, or remove {root} to start afresh.")
    return State(
        root=root,
        home=home or project_home(),
        ports=_read_ports(root / "ports.json"),
        access_key=known["S3_ACCESS_KEY"],
        secret_key=known["S3_SECRET_KEY"],
        server_secrets={name: known[name] for name in SERVER_SECRETS},
        passwords={name: known[name] for name in PASSWORDS},
    )


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback address now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def _choose_ports() -> dict[str, int]:
    """One free port per name whose twin at +10000 is free as well."""
    ports: dict[str, int] = {}
    while len(ports) < len(PORTS):
        port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)
        taken = {p + offset for p in ports.values() for offset in (0, _GRPC_OFFSET)}
        if not {port, port + _GRPC_OFFSET} & taken and port_is_free(port) and port_is_free(port + _GRPC_OFFSET):
            ports[PORTS[len(ports)]] = port
    return ports


def _read_ports(path: Path) -> dict[str, int]:
    if not path.exists():
        write_private(path, json.dumps(_choose_ports(), indent=2) + "\n")
    try:
        ports = json.loads(path.read_text())
        return {name: int(ports[name]) for name in PORTS}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}); it names one port each for {', '.join(PORTS)}.") from error


def _as_lines(variables: Mapping[str, str]) -> str:
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())


def write_private(path: Path, text: str) -> None:
    """Replace `path` at once by a file that only its owner reads."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.chmod(0o600)
    draft.write_text(text)
    draft.replace(path)
