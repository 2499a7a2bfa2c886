"""The two sizes of every measurement: one for a GPU, one that proves the same code on a CPU in seconds."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class Size(NamedTuple):
    """What is measured."""

    device: str
    dtype: torch.dtype
    hidden: int
    vocabulary: int
    tokens: tuple[int, ...]
    """Numbers of tokens of one call of the objective."""
    layers: int
    heads: tuple[int, int]
    """Query heads, key and value heads, of 128 channels each on a GPU."""
    batch: int
    """Completions in a step and in a batch of rollouts."""
    length: int
    """Tokens of a completion; a prompt has as many."""
    repeats: int
    campaign_items: int


GPU = Size("cuda", torch.bfloat16, 4096, 128_256, (1024, 8192), 28, (16, 8), 32, 256, 5, 2000)
"""The objective at the size of Llama-3-8B's head; steps and rollouts of Qwen3-1.7B's shape."""
CPU = Size("cpu", torch.float32, 64, 512, (32,), 2, (2, 1), 4, 8, 2, 400)


class Best(NamedTuple):
    """The fastest of a size's repeats."""

    seconds: float
    result: Any
    """What the call gave back."""
    peak: int
    """Most bytes of the device's memory; 0 on a CPU."""
    held: int
    """Of these, bytes that were taken before."""
    busy: float | None
    """Mean share of the time in which the device computed something, of its driver's samples; None on a CPU."""


def best_of(size: Size, call: Callable[[], Any]) -> Best | None:
    """Time `call` after once that is not counted. None where the device's memory does not suffice."""
    on_device = size.device == "cuda"
    try:
        call()
        if on_device:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        held, found = torch.cuda.memory_allocated() if on_device else 0, []
        with _watched(on_device) as busy:
            for _ in range(size.repeats):
                began = time.perf_counter()
                result = call()
                if on_device:
                    torch.cuda.synchronize()
                found.append((time.perf_counter() - began, result))
    except torch.cuda.OutOfMemoryError:
        return None
    seconds, result = min(found, key=lambda one: one[0])
    share = statistics.mean(busy) / 100 if busy else None
    return Best(seconds, result, torch.cuda.max_memory_allocated() if on_device else 0, held, share)


@contextmanager
def _watched(on_device: bool) -> Iterator[list[int]]:
    """The driver's utilisation in percent, every tenth of a second until the block ends."""
    busy, ended = [], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            busy.append(torch.cuda.utilization())

    watcher = threading.Thread(target=watch, daemon=True)
    if on_device:
        watcher.start()
    try:
        yield busy
    finally:
        ended.set()
        if on_device:
            watcher.join()
