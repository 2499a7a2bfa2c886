"""Progress of long stages as a Prefect progress artifact, and as a line where a terminal shows it."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from tqdm import tqdm

_MIN_SECONDS = 2.0
"""Seconds between updates: each one is an API call."""


@contextmanager
def progress(key: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `report(done, total)`. The artifact appears once a stage has run for two seconds; short ones need none."""
    state = {"artifact": None, "last": time.monotonic(), "percent": 0.0}
    bar = tqdm(desc=key, unit=f" {unit}", mininterval=_MIN_SECONDS, dynamic_ncols=True, disable=None)

    def report(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)  # which counts nothing where no terminal is
        state["percent"] = 100.0 * done / max(total, 1)
        if time.monotonic() - state["last"] >= _MIN_SECONDS:
            state["last"] = time.monotonic()
            _publish(state, key, unit)

    try:
        yield report
    finally:
        bar.close()
        if state["artifact"] is not None:
            _publish(state, key, unit)


def artifact_key(text: str) -> str:
    """`text` as Prefect accepts it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]", "-", text.lower())


def _publish(state: dict, key: str, unit: str) -> None:
    if state["artifact"] is None:
        state["artifact"] = create_progress_artifact(state["percent"], key=artifact_key(key), description=f"{unit} done")
    else:
        update_progress_artifact(state["artifact"], state["percent"])
