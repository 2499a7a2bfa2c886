"""Who may use Prefect and MLflow: on loopback every user of this machine, elsewhere only holders of the generated passwords."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.state import HOST, USER, State, bind_address, write_private
from opsd_core.errors import ServiceError

_STAMP = "bound"


@dataclass(frozen=True)
class Access:
    """What a server needs on its command line and in its environment."""

    options: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict, repr=False)


def prefect_access(state: State, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment of a Prefect server that asks for the password, {} on loopback."""
    if bind_address(environ) == HOST:
        return {}
    page = f"http://{socket.gethostname()}:{state.ports['prefect']}"
    return {
        "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{state.passwords['PREFECT_PASSWORD']}",
        "PREFECT_SERVER_UI_API_URL": f"{page}/api",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": page,
    }


def mlflow_access(state: State, environ: Mapping[str, str]) -> Access:
    """Options and environment of an MLflow server that asks for name and password, none on loopback."""
    if bind_address(environ) == HOST:
        return Access()
    config = state.root / "mlflow" / "auth.ini"
    write_private(
        config,
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{config.with_name('auth.db')}\n"
        f"admin_username = {USER}\nadmin_password = {state.passwords['MLFLOW_PASSWORD']}\n",
    )
    secrets = {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": state.passwords["MLFLOW_SECRET_KEY"]}
    return Access(("--app-name", "basic-auth"), secrets)


def check_unchanged(state: State, environ: Mapping[str, str], running: bool) -> None:
    """Raises ServiceError when servers still run that were started for another address; records the address."""
    stamp, address = Path(state.root / "run" / _STAMP), bind_address(environ)
    before = stamp.read_text() if stamp.exists() else HOST
    if running and before != address:
        raise ServiceError(
            f"Prefect or MLflow runs bound to {before}, OPSD_BIND asks for {address}. Stop the servers first: make down."
        )
    stamp.write_text(address)
