"""What one call costs: wall time, CPU seconds of this process and of all that it started, and the most memory.

Runs in every peer's environment, so it imports nothing but the standard library and psutil.
"""

import gc
import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

FIGURES = "FIGURES "
"""Before an arm's line of JSON: peers write to the standard output too."""


class Cost(NamedTuple):
    """Of one call."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds, of all threads and processes."""
    extra_mib: float
    """Most resident memory during the call, less what was resident before it; nan where the kernel does not reset the peak."""
    peak_mib: float
    """Most resident memory that this process had so far, and what its children have now."""
    result: Any


class Stopwatch:
    """Counts from its making to `stop`."""

    def __init__(self) -> None:
        gc.collect()
        self._resident = _status("VmRSS:")
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._reset = _status("VmHWM:") <= 1.05 * self._resident
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def stop(self, result: Any = None) -> Cost:
        """The cost since then."""
        wall, cpu = time.perf_counter() - self._wall, cpu_seconds() - self._cpu
        peak = _status("VmHWM:")
        extra = (peak - self._resident) / 1024 if self._reset else math.nan
        return Cost(wall, cpu, extra, peak / 1024 + _of_children(), result)


def cost_of(call: Callable[[], Any]) -> Cost:
    """Call once and count."""
    watch = Stopwatch()
    return watch.stop(call())


def cpu_seconds() -> float:
    """User and system time of this process, of its children, and of those that have ended."""
    total, me = 0.0, psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def _of_children() -> float:
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 2**20


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
