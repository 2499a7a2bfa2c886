"""How much memory a piece of work takes at its peak: Python's and numpy's objects, and Arrow's buffers. No clock, no luck."""

import tracemalloc
from collections.abc import Callable

import pyarrow as pa

_POOLS: list[pa.MemoryPool] = []
"""Each outlives every buffer that came from it; what is cached between two measurements is one."""


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that `work` held at once, what it returns included."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    _POOLS.append(pool)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        held = work()  # noqa: F841 — what a stage hands on is part of its peak
        return tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def growth_per_record(work: Callable[[int], object], sizes: tuple[int, int]) -> float:
    """Bytes by which the peak grows with every record; `work(size)` handles so many."""
    small, large = (peak_bytes(lambda size=size: work(size)) for size in sizes)
    return (large - small) / (sizes[1] - sizes[0])
