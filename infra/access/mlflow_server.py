"""MLflow's server behind the door of `infra.access.door`: the app `opsd` of `mlflow server --app-name opsd`.

It asks for MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on every path but the health page: one user, who may do
everything. MLflow's own `basic-auth` hashes the password anew for each request and leaves some paths open.
"""

import os

from infra.access.door import App, Door, host_names
from opsd_core.errors import ConfigError
from tasks.runtime.secrets import redact_logs

OPEN_PATHS = frozenset({"/health", "/version"})
# A request with name and password makes the browser remember them for this origin.
_LOGIN = """const cut = given.indexOf(":"), ask = new XMLHttpRequest();
ask.open("GET", "/ajax-api/2.0/mlflow/experiments/search?max_results=1", true, given.slice(0, cut), given.slice(cut + 1));
ask.onloadend = () => location.replace("/");
ask.send();"""


def app() -> App:
    """MLflow's application behind the door.

    Raises ConfigError when MLFLOW_TRACKING_USERNAME or MLFLOW_TRACKING_PASSWORD is not set.
    """
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if not user or not password or ":" in user:
        raise ConfigError(
            "MLflow is not served without a password: set MLFLOW_TRACKING_USERNAME (no colon) and MLFLOW_TRACKING_PASSWORD."
        )
    redact_logs()
    from mlflow.server.fastapi_app import app as served

    return Door(served, host_names(os.environ), _LOGIN, f"{user}:{password}", OPEN_PATHS)
