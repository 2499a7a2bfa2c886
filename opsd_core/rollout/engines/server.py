"""The process of an engine that answers over HTTP on this machine: started, waited for, ended with all that it started.

It never outlives this process, which may be killed at any moment (`supervisor`), and shares no secret with it.
"""

import atexit
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from opsd_core.addresses import bare
from opsd_core.errors import ConfigError, ServiceError
from opsd_core.rollout.engines import supervisor

HOST = "127.0.0.1"
_START_S = 900.0
"""Until it answers; large weights are read and kernels compiled meanwhile."""
_END_S = 20.0
_PAUSE_S = 0.2
_SAID = re.compile(r"^\W*(?:\w+\.)*\w*(?:Error|Exception|Exit)\b.*: .+|out of memory", re.IGNORECASE)
_PREFIX = re.compile(r"^\(.*?pid=\d+\) *|^(ERROR|WARNING|INFO) [\d-]+ [\d:]+ *|^\[\S+:\d+\] *")
_LONGEST_PATH = 60
"""Characters of a folder below which an engine's sockets have addresses that the system takes."""
_PORTS, _TAKEN = 3, "address already in use"
"""How many ports are tried: another process may take a free one before the engine does."""
_running: list["Server"] = []


class _PortTakenError(ConfigError):
    """Between choosing a free port and the engine's start another process took it."""


class Server:
    """One started process; requests may come from several threads."""

    def __init__(self, name: str, client: httpx.Client, key: str) -> None:
        self.name, self.client, self._key = name, client, key
        self.owner = os.getpid()
        base = None if len(tempfile.gettempdir()) < _LONGEST_PATH else "/tmp"
        self.folder = Path(tempfile.mkdtemp(prefix="opsd-engine-", dir=base))
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls, name: str, python: Path, command: Callable[[int], Sequence[str]], environ: Mapping[str, str], key_in: str
    ) -> "Server":
        """The process of `command(port)` once it answers, run by `python`'s environment; the variable `key_in` gets its key.

        ConfigError with what it said last when it ends before. `name`: the setting that asked for it, for messages.
        """
        for _ in range(_PORTS - 1):
            with suppress(_PortTakenError):
                return cls._once(name, python, command, environ, key_in)
        return cls._once(name, python, command, environ, key_in)

    @classmethod
    def _once(
        cls, name: str, python: Path, command: Callable[[int], Sequence[str]], environ: Mapping[str, str], key_in: str
    ) -> "Server":
        port, key = _free_port(), secrets.token_urlsafe(32)
        client = httpx.Client(
            base_url=f"http://{HOST}:{port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )
        server = cls(name, client, key)
        _running.append(server)
        try:
            server._begin([str(python), supervisor.__file__, str(server.folder), *command(port)], {**environ, key_in: key})
            server._wait()
        except BaseException:
            server.close()
            raise
        return server

    def _begin(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**environ, "TMPDIR": str(self.folder)},
                cwd=self.folder,
                start_new_session=True,
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            with suppress(httpx.HTTPError):
                if self.client.get("/v1/models", timeout=5.0).status_code == 200:  # whoever took the port has another key
                    return
            if not self.alive or time.monotonic() > deadline:
                said = self.last_words()
                kind = _PortTakenError if _TAKEN in said.lower() else ConfigError
                raise kind(
                    f"{self.name}: its process {self.ending()} before it was ready. {said}\n"
                    "Mend what it names, or set execution.engine=transformers."
                )
            time.sleep(_PAUSE_S)

    @property
    def alive(self) -> bool:
        """Whether the process runs, and is this process's own (a fork of it asks nobody)."""
        return self.process is not None and self.owner == os.getpid() and self.process.poll() is None

    def ask(self, path: str, request: Mapping[str, Any]) -> Any:
        """The JSON that it answers. ServiceError when it has ended or refuses."""
        if self.client.is_closed:
            raise ServiceError(f"{self.name}: its process was ended, and nobody can ask it.")
        try:
            response = self.client.post(path, json=request)
            if response.status_code == 200:
                return response.json()
            said = f"answers {response.status_code}: {bare(response.text)[:600]}"
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            said = f"gives no answer ({type(error).__name__})"
        if self.process is not None and self.owner == os.getpid():
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(2.0)
        raise ServiceError(f"{self.name} {said}. {'' if self.alive else f'Its process {self.ending()}. '}{self.last_words()}")

    def ending(self) -> str:
        """How the process ended, in words."""
        with suppress(OSError):
            return f"ended with status {(self.folder / 'ended').read_text()}"
        return "was ended" if not self.alive else "did not answer"

    def last_words(self) -> str:
        """The errors in its output and the end of it, without its key and without passwords in addresses."""
        with suppress(OSError):
            text = (self.folder / "log.txt").read_text(errors="replace")[-200_000:]
            lines = [_plain(line) for line in bare(text.replace(self._key, "***")).splitlines()]
            causes = list(dict.fromkeys(line[:400] for line in lines if _SAID.search(line)))[:3]
            last = [line[:200] for line in lines if line][-8:]
            return "It said: " + "\n".join([*causes, *(["..."] if causes else []), *last])
        return ""

    def close(self) -> None:
        """End the process and everything that it started; what it wrote is deleted."""
        process, self.process = self.process, None
        if self in _running:
            _running.remove(self)
        self.client.close()
        if self.owner != os.getpid():
            return
        if process is not None:
            with suppress(OSError):
                process.stdin.close()  # the supervisor hears it
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def stop_servers() -> None:
    """End every engine that this process started."""
    for server in list(_running):
        server.close()


atexit.register(stop_servers)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def _plain(line: str) -> str:
    """A line of a log without what every line begins with."""
    while (shorter := _PREFIX.sub("", line.strip())) != line:
        line = shorter
    return line
