"""pytest -m slow tests/faults/test_away_at_start.py — a server that is away when a campaign starts is named within a minute."""

import socket
import threading
import time

import pytest

from tests.faults.attempt import Arm

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
DOCUMENTED_S = 60.0
"""docs/operations.md; said by the error's own line, whatever starting and ending a process takes."""
AWAY = {
    "AWS_ENDPOINT_URL_S3": {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "any"},
    "MLFLOW_TRACKING_URI": {},
}


def silent_server():
    """A server that takes every connection and never answers."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    kept = []

    def serve():
        while True:
            try:
                kept.append(listening.accept()[0])
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return listening


def refusing_server():
    """A port at which nobody listens, kept so that nobody will."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held


@pytest.mark.parametrize("server", [refusing_server, silent_server])
@pytest.mark.parametrize("variable", AWAY)
def test_a_server_that_is_away_at_the_start_is_named_within_a_minute(stack, tmp_path, variable, server, capsys):
    with server() as held:
        environ = {variable: f"http://127.0.0.1:{held.getsockname()[1]}", **AWAY[variable]}
        arm = Arm("away", tmp_path / "arm", {"recipe": "tiny"}, environ)
        seen = {}

        def look():
            text = (arm.folder / "log").read_text(errors="replace") if (arm.folder / "log").exists() else ""
            for name in ("flow run", "does not answer"):
                if name in text:
                    seen.setdefault(name, time.monotonic())
            return False

        began = time.monotonic()
        assert arm.attempt(look, timeout_s=600) not in (0, -9)
        look()
    text = (arm.folder / "log").read_text(errors="replace")
    assert "ServiceError" in text and "does not answer" in text and variable in text, text[-3000:]
    took = seen["does not answer"] - seen["flow run"]
    with capsys.disabled():
        print(f"{variable}, {server.__name__}: said after {took:.0f} s, process gone after {time.monotonic() - began:.0f} s")
    assert took < DOCUMENTED_S
