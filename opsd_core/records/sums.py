"""Figures of more numbers than memory holds: what numpy says of all of them at once.

mean_of_parts   the mean, to the last bit
histogram       counts and edges
means_along     means per position of rows of different lengths
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

_BLOCK = 1 << 16
"""Numbers that are added by numpy itself; numpy halves its input until 128 are left, so any larger power of two is the same."""


def mean_of_parts(parts: Iterable[np.ndarray], size: int) -> float:
    """`np.concatenate(parts).mean()` of float32 or float64 numbers, `size` in all; nan of none.

    numpy adds pairwise: it halves what it is given, the first half a multiple of 8, and adds both sums in the numbers' own type.
    """
    rest = _Reader(parts)
    if size == 0:
        return float("nan")
    total = _pairwise(rest, size)
    return float(total.dtype.type(total / np.intp(size)))


def histogram(parts: Callable[[], Iterator[np.ndarray]], bins: int) -> tuple[np.ndarray, np.ndarray]:
    """`np.histogram` of all numbers, which `parts()` gives twice: counts (bins,) and edges (bins + 1,)."""
    ends = [(part.min(), part.max()) for part in parts() if len(part)]
    lowest, highest = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)
    counts, edges = np.histogram(np.empty(0, np.float32), bins, (lowest, highest))
    for part in parts():
        counts = counts + np.histogram(part, bins, (lowest, highest))[0]
    return counts, edges


def means_along(rows: Iterable[np.ndarray]) -> list[float]:
    """Mean per position over the rows that are long enough, to five digits, where at least a tenth of all rows are."""
    sums, counts, number = np.zeros(0), np.zeros(0, np.int64), 0
    for row in rows:
        if len(row) > len(sums):
            sums, counts = (np.pad(values, (0, len(row) - len(values))) for values in (sums, counts))
        sums[: len(row)] += row
        counts[: len(row)] += 1
        number += 1
    reached = counts >= max(1, number // 10)
    return [round(float(total / count), 5) for total, count in zip(sums[reached], counts[reached], strict=True)]


def _pairwise(rest: "_Reader", size: int) -> np.floating:
    if size <= _BLOCK:
        return np.add.reduce(rest.take(size))
    half = size // 2
    half -= half % 8
    first = _pairwise(rest, half)
    return first + _pairwise(rest, size - half)


class _Reader:
    """The parts as one stream."""

    def __init__(self, parts: Iterable[np.ndarray]) -> None:
        self._parts, self._held = iter(parts), np.empty(0, np.float32)

    def take(self, size: int) -> np.ndarray:
        found, count = [self._held], len(self._held)
        while count < size:
            found.append(next(self._parts))
            count += len(found[-1])
        together = np.concatenate(found[1:] if len(self._held) == 0 and len(found) > 1 else found)
        self._held = together[size:].copy()
        return np.ascontiguousarray(together[:size])
