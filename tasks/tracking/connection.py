"""One MLflow client, calls that outlast a short outage, and errors that say what to do."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from opsd_core.errors import ConfigError, RefusedError, ServiceError
from tasks.runtime.settings import Settings, load_settings, public_url

_T = TypeVar("_T")
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_CHECK_TIMEOUT_S = 10

# The client's own retries are off in this process: a request repeated after a lost answer would create a second run or
# version, and would hold up training. Ours repeat the whole look-up-or-create instead.
_FORCED = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_DEFAULT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class Connection:
    """A client for the tracking server of `settings`; `patience_s` bounds how long an outage is waited for."""

    def __init__(self, settings: Settings | None = None, *, patience_s: float = 90.0) -> None:
        self.settings = load_settings() if settings is None else settings
        if not self.settings.mlflow_uri:
            raise ConfigError(
                "no MLflow server is known: MLFLOW_TRACKING_URI is not set, and OPSD_STATE (default: .opsd in OPSD_HOME) names "
                "none. Start the embedded servers (opsd up), or set the variable."
            )
        os.environ.update({**_DEFAULT, **os.environ, **_FORCED})
        self.uri, self.patience_s = self.settings.mlflow_uri.rstrip("/"), patience_s
        self.public_uri = public_url(self.uri)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def check(self) -> None:
        """Ask for one experiment, once; raises ServiceError naming the address and the likely cause."""
        if not self.uri.startswith(("http://", "https://")):
            self._call("list experiments", lambda: self.client.search_experiments(max_results=1))
            return
        password = self.settings.mlflow_password
        user = self.settings.mlflow_username
        try:
            answer = requests.get(
                f"{self.uri}/api/2.0/mlflow/experiments/search",
                params={"max_results": 1},
                timeout=_CHECK_TIMEOUT_S,
                auth=(user, password.get_secret_value()) if user and password else None,
            )
        except requests.RequestException as error:
            raise self._silent(type(error).__name__) from error
        if answer.status_code in (401, 403):
            raise self._refused(answer.status_code)
        if answer.status_code != 200 or not answer.headers.get("content-type", "").startswith("application/json"):
            raise ServiceError(
                f"{self.public_uri} answers with status {answer.status_code}, but not as an MLflow tracking server. "
                "Check MLFLOW_TRACKING_URI (scheme, host, port, no path)."
            )

    def _call(self, action: str, function: Callable[[], _T]) -> _T:
        """`function()`, repeated through an outage for up to `patience_s`; it must be safe to repeat.

        Raises ServiceError when the outage outlasts that, RefusedError when the server says no to what is asked.
        """
        deadline = time.monotonic() + self.patience_s
        for attempt in range(10_000):
            try:
                return function()
            except (MlflowException, requests.RequestException, OSError) as error:
                if isinstance(error, ServiceError):
                    raise
                if not is_outage(error):
                    raise self._explain(action, error) from error
                pause = _PAUSES_S[min(attempt, len(_PAUSES_S) - 1)]
                if time.monotonic() + pause > deadline:
                    raise self._silent(f"trying to {action} for {self.patience_s:g} s") from error
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _explain(self, action: str, error: Exception) -> ServiceError:
        if http_status(error) in (401, 403):
            return self._refused(http_status(error))
        code = getattr(error, "error_code", type(error).__name__)
        if code == "RESOURCE_DOES_NOT_EXIST":
            code = "there is none; check its name and number, and MLFLOW_TRACKING_URI"
        return RefusedError(
            f"MLflow at {self.public_uri} refused to {action}: {code}: {self.settings.redact(str(error))}"
        )

    def _silent(self, detail: str) -> ServiceError:
        return ServiceError(
            f"MLflow at {self.public_uri} does not answer ({detail}). Is it running (make status), and is "
            "MLFLOW_TRACKING_URI right? Finished stages are kept; run again when it is back."
        )

    def _refused(self, status: int) -> ServiceError:
        if status == 401:
            why = "refuses the credentials: check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        else:
            why = (
                "forbids this: the user lacks permission, or the server does not accept this host name "
                "(its --allowed-hosts / MLFLOW_SERVER_ALLOWED_HOSTS)"
            )
        return ServiceError(f"MLflow at {self.public_uri} {why} (status {status}).")


def http_status(error: Exception) -> int:
    """The HTTP status behind an MLflow or requests error; 503 when no answer came at all."""
    if isinstance(error, MlflowException):
        if str(error).startswith("API request to") and "failed with" in str(error) and "error code" not in str(error):
            return 503
        return error.get_http_status_code()
    response = getattr(error, "response", None)
    return 503 if response is None else response.status_code


def is_outage(error: Exception) -> bool:
    """Whether trying again later can help: no answer, overload, or a failure inside the server."""
    return http_status(error) >= 500 or http_status(error) in (408, 429)
