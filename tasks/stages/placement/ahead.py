"""Calls that runners do beside others: handed out a few at a time, so that what the campaign waits for finds a free runner."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prefect import Task

from tasks.runtime.side_by_side import Begun
from tasks.stages.placement.calls import Call, Desk, result_of


class Ahead(Begun):
    """Calls of one task, at most `width` of them handed out at a time.

    Whoever waits for anything calls `feed` now and then; `looks` gives a turn after each pause, for whoever waits for these.
    """

    def __init__(
        self, desk: Desk, task: Task, calls: Sequence[Call], width: int, looks: Callable[[], Iterator[Any]]
    ) -> None:
        self.desk, self.task, self.calls, self.width, self.looks = desk, task, list(calls), width, looks
        self._keys: list[str] = []
        self._found: dict[str, dict[str, Any]] = {}

    @property
    def done(self) -> bool:
        """True when every call was handed out and answered."""
        return len(self._keys) == len(self.calls) and set(self._keys) <= self._found.keys()

    def feed(self) -> None:
        """Take what was answered, and hand out as many calls as are free to go."""
        out = set(self._keys) - self._found.keys()
        for key in out & set(self.desk.keys("results")) if out else ():
            if (record := self.desk.read("results", key)) is not None:
                self._found[key] = record
                self.desk.withdraw([key])
        while len(self._keys) < len(self.calls) and len(set(self._keys) - self._found.keys()) < self.width:
            self._keys.append(self.desk.post(self.task, self.calls[len(self._keys)]))

    def results(self) -> list[Any]:
        for _ in self.looks():
            if self.done:
                break
        return [result_of(self.task, self._found[key]) for key in self._keys]

    def drop(self) -> None:
        """Hand out nothing more; what runners work on comes to its end and stays in the store."""
        self.calls = self.calls[: len(self._keys)]
