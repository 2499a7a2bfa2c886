"""Run the calls of a task one after another, or several at a time, each in its own process.

Runners on other machines do the same (`tasks.stages.placement.runners`).
"""

import multiprocessing
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import Task
from prefect.task_runners import ProcessPoolTaskRunner


class Begun(ABC):
    """Calls whose results are asked for later."""

    @abstractmethod
    def results(self) -> list[Any]:
        """In the order of the calls, once all are there; the first error is raised."""

    @abstractmethod
    def drop(self) -> None:
        """The results are not wanted any more."""


class Done(Begun):
    """Calls that were done when they were begun."""

    def __init__(self, results: list[Any]) -> None:
        self._results = results

    def results(self) -> list[Any]:
        return self._results

    def drop(self) -> None:
        """There is nothing left to stop."""


class Run(ABC):
    """Does the calls of a task somewhere."""

    @abstractmethod
    def __call__(self, task: Task, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """run(task, argument tuples) -> results in their order; the first error is raised."""

    def one(self, task: Task, *call: Any) -> Any:
        """The result of a single call."""
        return self(task, [call])[0]

    def begin(self, task: Task, calls: Sequence[tuple[Any, ...]]) -> Begun:
        """Calls that others may overtake: beside them where there is more than one place to work, else done now."""
        return Done(self(task, calls))


class Here(Run):
    """In this process, one call after the other."""

    def __call__(self, task: Task, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [task(*call) for call in calls]


class Plain(Run):
    """As `Here`, as plain functions: inside another task, without a task run of their own."""

    def __call__(self, task: Task, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [task.fn(*call) for call in calls]


HERE, PLAIN = Here(), Plain()


def near(run: Run) -> Run:
    """What does in this process what needs no model, whoever does the rest; as plain functions where `run` does so."""
    return PLAIN if isinstance(run, Plain) else HERE


@contextmanager
def side_by_side(width: int) -> Iterator[Run]:
    """`width` = 1 calls here, one after the other; more uses as many processes, each with its share of the cores.

    A task must take `threads`. Processes are kept for the whole block, so that each imports and loads once; when this
    process is killed they end too.
    """
    if width == 1:
        yield HERE
        return
    threads = max(1, len(os.sched_getaffinity(0)) // width)
    with ProcessPoolTaskRunner(max_workers=width, initializer=_end_with_parent) as pool:
        yield _Processes(pool, threads)


class _Processes(Run):
    """In the processes of a pool; a task must take `threads`."""

    def __init__(self, pool: ProcessPoolTaskRunner, threads: int) -> None:
        self.pool, self.threads = pool, threads

    def __call__(self, task: Task, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        names = list(task.fn.__annotations__)
        given = [dict(zip(names, call, strict=False)) | {"threads": self.threads} for call in calls]
        futures = [self.pool.submit(task, arguments) for arguments in given]
        return [future.result() for future in futures]


def _end_with_parent() -> None:
    """Without it a pool outlives its killed parent: it keeps working while the run is resumed, then waits for calls forever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
