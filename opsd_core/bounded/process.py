"""A child process that answers one request at a time: JSON lines on its stdin and stdout.

A child can be ended from any thread, whatever it is doing; the next request starts another. One that is left alone ends with its
parent, for its stdin ends then.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

MAX_ANSWER_BYTES = 1 << 28
"""Longest answer that is read."""
_GRACE_SECONDS = 5.0
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "HOME", "TMPDIR", "SYSTEMROOT", "LANG", "LC_ALL")
_ADDED = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def bare_environment() -> dict[str, str]:
    """What Python needs to find the packages of this process, and no password: a child that reads what others wrote has no use
    for one."""
    paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path)
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"PYTHONPATH": paths} | _ADDED


class EndedError(Exception):
    """The child gave no whole answer and has ended."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message, status)
        self.status = status
        """As `subprocess.Popen.returncode`: negative for a signal; None where the parent ended it."""

    def __str__(self) -> str:
        return self.args[0]


class Child:
    """A lazily started child of this process; for one thread at a time. A forked process starts its own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], max_answer: int = MAX_ANSWER_BYTES) -> None:
        self._command, self._environment, self._max_answer = list(command), dict(environment), max_answer
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._errors: IO[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether a child of this process waits for a request."""
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def start(self) -> None:
        """Start a child in place of any before. OSError when the system refuses."""
        self.close()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the child)
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=self._environment
        )
        self._owner = os.getpid()

    def ask(self, request: str, seconds: float) -> Any:
        """The child's answer to a line of JSON. EndedError when it ends instead, or has given none after `seconds`.

        Anything that interrupts the parent meanwhile ends the child too: an answer that nobody read would be taken for that of
        the next request.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EndedError("it was not started")
        try:
            try:
                process.stdin.write(request.encode() + b"\n")
                process.stdin.flush()
                line = _read_line(process.stdout.fileno(), seconds, self._max_answer)
            except OSError:
                line = b""
            if line is not None and line.endswith(b"\n"):
                return json.loads(line)
            if line is None:
                raise EndedError(f"no result after {seconds:.0f} s")
            if len(line) > self._max_answer:
                raise EndedError(f"its answer is longer than {self._max_answer:,} bytes")
            raise self._ended(process)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the child, if this process started one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # what the dead child did not read
                        stream.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def messages(self) -> str:
        """The end of what the child wrote to stderr."""
        if self._errors is None:
            return ""
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
        return self._errors.read().decode(errors="replace").strip()[-500:]

    def _ended(self, process: "subprocess.Popen[bytes]") -> EndedError:
        try:
            status = process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its stdout and lives
            return EndedError("it answers no more")
        said = self.messages()
        return EndedError(f"its process ended (status {status}{f': {said}' if said else ''})", status)


def _read_line(descriptor: int, seconds: float, most: int) -> bytes | None:
    """The next line; a line without its end when the other side closed or wrote too much; None after `seconds`."""
    deadline, data = time.monotonic() + seconds, bytearray()
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while not data.endswith(b"\n"):
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        chunk = os.read(descriptor, 1 << 20)
        data += chunk
        if not chunk or len(data) > most:
            break
    return bytes(data)
