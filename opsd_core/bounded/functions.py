"""A function of the user's, named by its import path: found, checked, called in a child process, and known by its content.

`package.module:name` is found as this Python finds modules; `folder/file.py:name` by the file. The code is the user's own and
trusted as such. It runs in a process of its own so that one call that never ends can be ended, and it gets no password.
"""

import atexit
import json
import signal
import sys
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from opsd_core.bounded import function_worker
from opsd_core.bounded.process import Child, EndedError, bare_environment
from opsd_core.digest import digest, file_digest
from opsd_core.errors import ConfigError

CPU_SECONDS = 10
"""Processor time of one call."""
WALL_SECONDS = 60.0
"""In all, for a call that waits."""
_LOAD_SECONDS = 300.0
"""For an import, which may load large libraries."""


class CallError(Exception):
    """A call gave no result: the function raised, or what it returned cannot be read."""


class OvertimeError(CallError):
    """A call took longer than it may, or ended its process."""


class UserFunction:
    """The function that `field` names at `place`; safe to use from many threads."""

    def __init__(self, field: str, place: str, parameters: tuple[str, ...]) -> None:
        self._field, self._place, self._parameters = field, place, parameters
        self._child = Child([sys.executable, "-P", str(Path(function_worker.__file__))], bare_environment())
        self._files: Mapping[str, list[str]] = {}
        self._lock = threading.Lock()

    @property
    def content(self) -> str:
        """Digest of the files that it consists of: its module's, and those of the user's that importing it reads.

        ConfigError naming the field when it cannot be imported, or is no function of these parameters.
        """
        with self._lock:
            if not self._files or self._changed:
                self._load()
            return digest({name: content for name, (_, content) in self._files.items()})

    @property
    def identity(self) -> str:
        """Its name and the digest of its files, wherever they lie. ConfigError as `content`."""
        return f"{self._place.rpartition(':')[2]}:{self.content}"

    def call(self, *arguments: Any) -> Any:
        """What it returns, of JSON's types; a tuple is a list. CallError or ConfigError (as `content`) when there is nothing.

        One content is called, from when it was loaded until `content` is asked after a change.
        """
        with self._lock:
            if not self._child.alive:
                before, _ = self._files, self._load()
                if before and before != self._files:
                    self._child.close()
                    raise ConfigError(f"{self._field}={self._place!r} has changed since it was first used: begin again.")
            request = json.dumps({"arguments": arguments, "seconds": CPU_SECONDS})
            try:
                answer = self._child.ask(request, WALL_SECONDS)
            except EndedError as error:
                raise OvertimeError(_why(error)) from None
        if "error" in answer:
            raise CallError(f"raised {answer['error']}")
        if "unreadable" in answer:
            raise CallError(f"returned what no file can hold, {answer['unreadable']}")
        return answer["result"]

    def close(self) -> None:
        """End the child."""
        self._child.close()

    @property
    def _changed(self) -> bool:
        try:
            return any(file_digest(Path(path)) != content for path, content in self._files.values())
        except OSError:
            return True

    def _load(self) -> None:
        self._child.start()
        try:
            answer = self._child.ask(json.dumps({"load": self._place, "parameters": self._parameters}), _LOAD_SECONDS)
        except EndedError as error:
            answer = {"error": f"its import {_why(error)}"}
        if "error" in answer:
            self._child.close()
            raise ConfigError(
                f"{self._field}={self._place!r} cannot be used: {answer['error']}. Give package.module:function, which every "
                "machine that runs stages can import, or the path of a .py file with :function, at the same path on all of them. "
                f"It is called as function({', '.join(self._parameters)}). Correct {self._field}."
            )
        self._files = answer["files"]


def _why(error: EndedError) -> str:
    if error.status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"took more than {CPU_SECONDS} s of processor time"
    return f"gave no result: {error}"


@lru_cache(maxsize=16)
def user_function(field: str, place: str, parameters: tuple[str, ...]) -> UserFunction:
    """The one of this process."""
    function = UserFunction(field, place, parameters)
    atexit.register(function.close)
    return function
