"""Templates that others wrote, rendered in a child process: each rendering has its limit of time, memory and length.

Template and data decide together how long a rendering takes, so each one is bounded and not the first alone.
"""

import atexit
import json
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from opsd_core.bounded import template_worker
from opsd_core.bounded.process import Child, EndedError, bare_environment

DATE = datetime(2024, 7, 26)
"""What `strftime_now` says: the date that Llama 3's own template falls back to. A prompt must not change overnight."""
SECONDS = 2
"""Processor time of one rendering; a usual one takes a ten-thousandth of a second."""
MAX_BYTES = 1 << 30
"""Address space of the child, which has 40 MB when it starts."""
MAX_TEXT = 8_000_000
"""Characters of what a template writes: twice what an item of a data set may have."""
MAX_TEMPLATE = 200_000
"""Characters of a template; a chat template of 2026 has a tenth of that."""
_WAIT_SECONDS = 120.0
"""For an answer; the processor time ends a rendering long before, unless the machine is suspended."""
_MAX_KNOWN = 64
_BATCH, _BATCH_CHARS = 256, 1_000_000

Kind = Literal["chat", "plain"]


class RenderError(Exception):
    """A template raised something or passed a limit; the message says which and why."""

    def __init__(self, message: str, limit: bool = False) -> None:
        super().__init__(message, limit)
        self.limit = limit
        """Whether it passed a limit: another try would take as long."""

    def __str__(self) -> str:
        return self.args[0]


class Renderer:
    """The child that renders; safe to use from many threads."""

    def __init__(self) -> None:
        limits = {"bytes": MAX_BYTES, "seconds": SECONDS, "characters": MAX_TEXT, "date": DATE.isoformat()}
        self._child = Child(
            [sys.executable, "-P", str(Path(template_worker.__file__)), json.dumps(limits)], bare_environment()
        )
        self._lock = threading.Lock()
        self._numbers: dict[tuple[str, str], int] = {}

    def render(self, kind: Kind, template: str, variables: Sequence[Mapping[str, Any]]) -> list[str]:
        """The texts that the template makes, one for each of `variables`, which are of JSON's types.

        RenderError when it raises or passes a limit.
        """
        if len(template) > MAX_TEMPLATE:
            raise RenderError(f"it has {len(template):,} characters, more than {MAX_TEMPLATE:,}", limit=True)
        texts: list[str] = []
        waiting = [json.dumps(values) for values in variables]
        while waiting:
            batch = _first(waiting)
            with self._lock:
                answer = self._answer(kind, template, batch)
            if "error" in answer:
                raise RenderError(answer["error"], limit=answer["limit"])
            texts += answer["texts"]
            del waiting[: len(answer["texts"])]
        return texts

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _answer(self, kind: Kind, template: str, batch: list[str]) -> dict[str, Any]:
        if not self._child.alive or len(self._numbers) >= _MAX_KNOWN:
            self._numbers.clear()
            self._child.start()
        number = self._numbers.get((kind, template))
        head: dict[str, Any] = {"number": number}
        if number is None:
            head = {"number": len(self._numbers), "kind": kind, "template": template}
            self._numbers[kind, template] = head["number"]
        try:
            return self._child.ask(f'{json.dumps(head)[:-1]}, "variables": [{", ".join(batch)}]}}', _WAIT_SECONDS)
        except EndedError as error:
            raise RenderError(_why(error), limit=True) from None


def _first(waiting: list[str]) -> list[str]:
    """As many as one request should hold, at least one."""
    size, count = 0, 0
    while count < min(_BATCH, len(waiting)) and size < _BATCH_CHARS:
        size += len(waiting[count])
        count += 1
    return waiting[:count]


def _why(error: EndedError) -> str:
    if error.status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it took more than {SECONDS} s of processor time: it loops without end, or nearly"
    if error.status == template_worker.OUT_OF_MEMORY:
        return f"it took more than {MAX_BYTES >> 20:,} MiB of memory: something in it grows from step to step"
    return f"{error}"


_RENDERER = Renderer()
atexit.register(_RENDERER.close)


def rendered(kind: Kind, template: str, variables: Sequence[Mapping[str, Any]]) -> list[str]:
    """As `Renderer.render`, in this process' child."""
    return _RENDERER.render(kind, template, variables)
