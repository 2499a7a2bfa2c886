"""Prefect's API and pages behind the door of `infra.access.door`: `python -m infra.access.prefect_server --port 4200`.

Runs are named as they are submitted (`infra.access.named_runs`). Everything else is as in `prefect server start`, with the
same settings from the environment. Password and CSRF token are Prefect's own checks (PREFECT_SERVER_API_AUTH_STRING,
PREFECT_SERVER_CSRF_PROTECTION_ENABLED); without the password this does not start.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings

from infra.access.door import Door, host_names
from infra.access.named_runs import NamedRuns
from infra.access.prefect_database import wait_for_locks
from tasks.runtime.secrets import redact_logs

# Prefect's pages keep the password in the browser's storage for this origin.
_LOGIN = 'localStorage.setItem("prefect-password", btoa(given)); location.replace("/");'


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.access.prefect_server", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=4200, help="port to listen on (default: %(default)s)")
    options = parser.parse_args(arguments)
    api = get_current_settings().server.api
    if not api.auth_string or not api.auth_string.get_secret_value():
        print("opsd: set PREFECT_SERVER_API_AUTH_STRING to user:password; Prefect is not served without one.", file=sys.stderr)
        return 1
    redact_logs()
    wait_for_locks()
    uvicorn.run(
        Door(NamedRuns(create_app(final=True)), host_names(os.environ), _LOGIN),
        host=options.host,
        port=options.port,
        timeout_keep_alive=api.keepalive_timeout,
        ws_ping_interval=api.websocket_ping_interval,
        ws_ping_timeout=api.websocket_ping_timeout,
        log_level=get_current_settings().server.logging_level.lower(),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
