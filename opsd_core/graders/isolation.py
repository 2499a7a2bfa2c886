"""One child process in which verifiers run that parse what a model wrote.

math-verify and several reasoning-gym verifiers hand the text to sympy, which can take forever (9^9^9^9) or all memory.
Their own time limits use signal.alarm, which fails outside the main thread. A child process can be ended from any
thread; the next call starts another.
"""

import atexit
import json
import sys
import threading
from typing import Any

from opsd_core.bounded.process import Child, EndedError, bare_environment
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
        self._child: Child | None = None
        self._loaded: set[str] = set()

    def call(self, function: str, **arguments: Any) -> Any:
        """Result of verifier `function`. Raises VerifierError; ConfigError when the child cannot be started."""
        with self._lock:
            child = self._running()
            if function not in self._loaded:  # importing sympy and the tasks is not the completion's time
                _load(child, function)
                self._loaded.add(function)
            try:
                answer = child.ask(json.dumps({"function": function, "arguments": arguments}), CALL_SECONDS)
            except EndedError as error:
                why = "the verifier's process died" if error.status is not None else error
                raise VerifierError(f"{why}") from None
        if "error" in answer:
            raise VerifierError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the child, if this process started one."""
        if self._child is not None:
            self._child.close()

    def _running(self) -> Child:
        if self._child is None:
            environment = bare_environment() | _SINGLE_THREAD
            self._child = Child([sys.executable, "-P", "-m", "opsd_core.graders.worker"], environment)
        if not self._child.alive:
            self._loaded.clear()
            self._child.start()
        return self._child


def _load(child: Child, function: str) -> None:
    try:
        answer = child.ask(json.dumps({"load": function}), _START_SECONDS)
    except EndedError as error:
        raise ConfigError(f"the grader's process did not start: {error}. Is the package installed?") from None
    if "error" in answer:
        raise ConfigError(f"the grader's process cannot load its verifier: {answer['error']}")


VERIFIERS = IsolatedVerifiers()
atexit.register(VERIFIERS.close)
