"""A real Chromium without a window, spoken to over its debugging socket: what a person's browser would do, it does."""

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = f"none of {', '.join(NAMES)} is installed; sudo apt-get install chromium (CONTRIBUTING.md)"
_PATIENCE_S = 60.0


def program() -> str | None:
    """Path of an installed Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class ScriptError(AssertionError):
    """A script threw in the page."""


class Browser:
    """One tab of a running Chromium."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._last = socket, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command of the debugging protocol."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=_PATIENCE_S))
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> Any:
        """The value of `script` in the page, awaited; ScriptError when it throws."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if thrown := answer.get("exceptionDetails"):
            raise ScriptError(thrown.get("exception", {}).get("description") or thrown.get("text"))
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        """Go to `url` and wait until the page is there."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def wait_for(self, condition: str) -> None:
        """Wait until `condition` holds in the page; it may be replaced by another page meanwhile."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self._holds(condition):
            assert time.monotonic() < deadline, f"{condition}; the page: {self.text()[:1000]}"
            time.sleep(0.1)

    def _holds(self, condition: str) -> bool:
        with contextlib.suppress(ScriptError):  # of a page that is not there yet
            return self.run(f"Boolean({condition})") is True
        return False

    def text(self) -> str:
        """What the page shows."""
        return str(self.run("location.href + '\\n' + (document.body ? document.body.innerText : '')"))


@contextlib.contextmanager
def browsing(*options: str) -> Iterator[Browser]:
    """A fresh browser with a profile of its own, closed at the end."""
    with tempfile.TemporaryDirectory(prefix="opsd-browser-") as profile:
        command = [program() or "", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--no-first-run", "--disable-background-networking", "--no-proxy-server", "--remote-debugging-port=0"]
        command += [f"--user-data-dir={profile}", *options, "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(Path(profile)), max_size=None, proxy=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()
            process.wait(20)
            time.sleep(0.3)  # its helpers still write to the profile


def _address(profile: Path) -> str:
    """The debugging address of the first tab."""
    from urllib.request import ProxyHandler, build_opener

    deadline = time.monotonic() + _PATIENCE_S
    opener = build_opener(ProxyHandler({}))
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, IndexError):
            port = int((profile / "DevToolsActivePort").read_text().split()[0])
            tabs = json.loads(opener.open(f"http://127.0.0.1:{port}/json/list", timeout=5).read())
            return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        time.sleep(0.1)
    raise AssertionError("Chromium did not start")
