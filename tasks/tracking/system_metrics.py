"""CPU, memory, disk and GPU figures under the names that MLflow's own pages expect (`system/...`)."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pynvml

_LOG = logging.getLogger(__name__)
_SAMPLES_PER_CALL = 6
_MEGABYTE = 1e6

Row = tuple[int, dict[str, float]]


@contextmanager
def sampling(send: Callable[[list[Row]], None], interval_s: float) -> Iterator[None]:
    """Sample every `interval_s` seconds inside the block and `send` rows a few at a time.

    The step of a row is the clock in units of the interval, so that steps keep rising in a resumed run.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_loop, args=(send, interval_s, stop), name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _loop(send: Callable[[list[Row]], None], interval_s: float, stop: threading.Event) -> None:
    process, devices, rows = psutil.Process(), _devices(), []
    psutil.cpu_percent()
    while True:
        ended = stop.wait(interval_s)
        rows.append((int(time.time() / interval_s), sample(process, devices)))
        if ended or len(rows) >= _SAMPLES_PER_CALL:
            send(rows)
            rows = []
        if ended:
            return


def sample(process: psutil.Process, devices: list[Any]) -> dict[str, float]:
    """One reading: percent, and megabytes of 10^6 bytes."""
    memory = psutil.virtual_memory()
    values = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
        "system/system_memory_usage_percentage": memory.percent,
        "system/process_memory_megabytes": process.memory_info().rss / _MEGABYTE,
        "system/process_open_files": float(process.num_fds()),
        "system/disk_usage_percentage": psutil.disk_usage("/").percent,
    }
    for number, device in enumerate(devices):
        try:
            used = pynvml.nvmlDeviceGetMemoryInfo(device)
            values[f"system/gpu_{number}_memory_usage_megabytes"] = used.used / _MEGABYTE
            values[f"system/gpu_{number}_memory_usage_percentage"] = 100.0 * used.used / used.total
            values[f"system/gpu_{number}_utilization_percentage"] = float(
                pynvml.nvmlDeviceGetUtilizationRates(device).gpu
            )
            values[f"system/gpu_{number}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(device) / 1000.0
        except pynvml.NVMLError:  # a figure this device does not offer
            continue
    return values


def _devices() -> list[Any]:
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        _LOG.debug("No NVIDIA driver: GPU figures are left out.")
        return []
