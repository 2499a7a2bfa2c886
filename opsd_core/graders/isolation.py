"""One child process in which verifiers run that parse what a model wrote.

math-verify and several reasoning-gym verifiers hand the text to sympy, which can take forever (9^9^9^9) or all memory.
Their own time limits use signal.alarm, which fails outside the main thread. A child process can be ended from any
thread; the next call starts another.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any

from opsd_core.errors import ConfigError

CALL_SECONDS = 5.0
_START_SECONDS = 180.0
_SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class VerifierError(Exception):
    """A verifier raised, ran out of time or memory; the message says which. The completion counts as wrong."""


class IsolatedVerifiers:
    """A lazily started child that answers one request at a time; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._loaded: set[str] = set()
        self._errors: IO[bytes] | None = None

    def call(self, function: str, **arguments: Any) -> Any:
        """Result of verifier `function`. Raises VerifierError; ConfigError when the child cannot be started."""
        with self._lock:
            process = self._running()
            if function not in self._loaded:  # importing sympy and the tasks is not the completion's time
                self._exchange(process, {"load": function}, _START_SECONDS, starting=True)
                self._loaded.add(function)
            answer = self._exchange(process, {"function": function, "arguments": arguments}, CALL_SECONDS)
        if "error" in answer:
            raise VerifierError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the child, if this process started one."""
        process, self._process = self._process, None
        self._loaded.clear()
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _child_messages(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-500:]

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self.close()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the child)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "opsd_core.graders.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **_SINGLE_THREAD},
        )
        self._owner = os.getpid()
        return self._process

    def _exchange(self, process: Any, request: dict[str, Any], seconds: float, starting: bool = False) -> Any:
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = _read_line(process.stdout.fileno(), seconds)
        except OSError:
            line = b""
        if line is not None and line.endswith(b"\n"):
            answer = json.loads(line)
            if starting and "error" in answer:
                raise ConfigError(f"the grader's process cannot load its verifier: {answer['error']}")
            return answer
        reason = self._child_messages() if starting else ""
        self.close()
        if starting:
            raise ConfigError(f"the grader's process did not start: {reason or 'no answer'}. Is the package installed?")
        raise VerifierError(f"no result after {seconds:.0f} s" if line is None else "the verifier's process died")


def _read_line(descriptor: int, seconds: float) -> bytes | None:
    """The next line; a line without its end when the other side closed; None after `seconds`."""
    deadline, data = time.monotonic() + seconds, b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        if not (chunk := os.read(descriptor, 1 << 16)):
            return data
        data += chunk
    return data


VERIFIERS = IsolatedVerifiers()
atexit.register(VERIFIERS.close)
