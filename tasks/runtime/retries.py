"""When a stage is tried again: services may recover, bad input does not.

The object store's client gives up within seconds of an outage, so what outlasts a restart of that server are these pauses.
"""

from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from opsd_core.errors import RefusedError, ServiceError


def transient(task: Task, task_run: TaskRun, state: State) -> bool:
    """True for outages of a service; what it refuses, and errors in configuration, data, model or training fail at once."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ServiceError | ConnectionError | TimeoutError) and not isinstance(error, RefusedError)


STAGE: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [3, 20, 60],
    "retry_condition_fn": transient,
    "cache_policy": NO_CACHE,
}
"""Decorator arguments of every stage. Results are artifacts, so Prefect's own cache stays off."""
