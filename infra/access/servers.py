"""Who may use Prefect, MLflow and the object store: only holders of the generated passwords and keys, on loopback too."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.access.door import LOGIN_PATH, host_names
from infra.state import HOST, USER, State, bind_address
from opsd_core.errors import ServiceError

_STAMP = "bound"
_ASKING = ", with passwords"


@dataclass(frozen=True)
class Access:
    """What a server needs on its command line and in its environment."""

    options: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict, repr=False)


def prefect_access(state: State, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment of a Prefect server that asks for the password and for CSRF tokens."""
    page = state.urls["prefect"].removesuffix("/api")
    return {
        "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{state.passwords['PREFECT_PASSWORD']}",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_UI_API_URL": "/api",  # of the page's own host, however it is reached
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": page,
    }


def mlflow_access(state: State, environ: Mapping[str, str]) -> Access:
    """Options and environment of an MLflow server that asks for name and password (see `infra.access.mlflow_server`)."""
    # The door in front is stricter about hosts and origins; MLflow's own check would refuse this machine's names.
    names = sorted(host_names(environ))
    origins = ",".join(f"{scheme}://{name}{port}" for name in names for scheme in ("http", "https") for port in ("", ":*"))
    options = ("--app-name", "opsd", "--allowed-hosts", "*", "--cors-allowed-origins", origins)
    secrets = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": state.passwords["MLFLOW_PASSWORD"]}
    return Access(options, secrets)


def login_lines(state: State, environ: Mapping[str, str], *, show: bool) -> list[str]:
    """How a person gets into the embedded servers' pages; with `show`, links that log in, password included."""
    external = state.external(environ)
    own = {"prefect": "Prefect", "mlflow": "MLflow"}
    passwords = {"prefect": state.passwords["PREFECT_PASSWORD"], "mlflow": state.passwords["MLFLOW_PASSWORD"]}
    lines = []
    for name, title in own.items():
        if name not in external and show:
            page = state.urls[name].removesuffix("/api")
            lines.append(f"  {title:8} {page}{LOGIN_PATH}#{USER}:{passwords[name]}")
    if show:
        return ["Links that log you in (they hold the passwords):", *lines] if lines else []
    if set(own) <= set(external):
        return []
    return ["Prefect and MLflow ask for a password: `make login` prints links that log you in."]


def is_private(stream: object) -> bool:
    """Whether a person reads `stream` on a terminal, so that passwords may be shown: not a pipe, a file or a CI log."""
    return bool(getattr(stream, "isatty", lambda: False)()) and not os.environ.get("CI")


def check_unchanged(state: State, environ: Mapping[str, str], running: bool) -> None:
    """Record how the servers are started now: their address, and that they ask for passwords.

    Raises ServiceError when servers still run that were started otherwise.
    """
    stamp, address = Path(state.root / "run" / _STAMP), bind_address(environ)
    text = stamp.read_text() if stamp.exists() else HOST
    before = text.removesuffix(_ASKING)
    if running and before != address:
        raise ServiceError(
            f"Prefect or MLflow runs bound to {before}, OPSD_BIND asks for {address}. Stop the servers first: make down."
        )
    if running and before == text:
        raise ServiceError("Servers of an older version run, which ask for no password. Stop them first: make down.")
    stamp.write_text(address + _ASKING)
