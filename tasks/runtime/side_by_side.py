"""Run the calls of a task one after another, or several at a time, each in its own process."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import Task
from prefect.task_runners import ProcessPoolTaskRunner

Run = Callable[[Task, Sequence[tuple[Any, ...]]], list[Any]]
"""run(task, argument tuples) -> results in their order; the first error is raised."""


@contextmanager
def side_by_side(width: int) -> Iterator[Run]:
    """`width` = 1 calls here, one after the other; more uses as many processes, each with its share of the cores.

    A task must take `threads`. Processes are kept for the whole block, so that each imports and loads once; when this
    process is killed they end too.
    """
    if width == 1:
        yield lambda task, calls: [task(*call) for call in calls]
        return
    threads = max(1, len(os.sched_getaffinity(0)) // width)
    with ProcessPoolTaskRunner(max_workers=width, initializer=_end_with_parent) as pool:

        def run(task: Task, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
            names = list(task.fn.__annotations__)
            futures = [pool.submit(task, dict(zip(names, call, strict=False)) | {"threads": threads}) for call in calls]
            return [future.result() for future in futures]

        yield run


def _end_with_parent() -> None:
    """Without it a pool outlives its killed parent: it keeps working while the run is resumed, then waits for calls forever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
