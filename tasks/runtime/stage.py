"""`task` for every stage: Prefect's own, whose errors hold no secret, with what they were caused by."""

import functools
from collections.abc import Callable
from typing import Any

import prefect

from tasks.runtime.secrets import redact_error


def task(**options: Any) -> Callable[[Callable[..., Any]], prefect.Task]:
    """Declare a stage, with the options of `prefect.task`."""
    return lambda function: prefect.Task(without_secrets(function), **options)


def without_secrets(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, from whose errors every secret is taken before Prefect writes them into a state and a log."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            redact_error(error)
            raise

    return guarded
