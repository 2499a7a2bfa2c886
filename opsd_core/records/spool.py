"""Records kept on disk while a stage works: written in any order, read by number, gone with the process.

In memory is where each one lies: 8 bytes a record and 4 for each of its arrays. A list of 1 million completions of 200 tokens
would take 100 GB.
"""

import os
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Generic, TypeVar

import numpy as np

from opsd_core.records.rows import Rows

Record = TypeVar("Record")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Codec(Generic[Record]):
    """How a record becomes arrays of fixed types, and again a record."""

    dtypes: tuple[str, ...]
    encode: Callable[[Record], Sequence[Any]]
    """One array per entry of `dtypes`; of any shape, stored flat."""
    decode: Callable[[Sequence[np.ndarray]], Record]

    def arrays(self, record: Record) -> list[np.ndarray]:
        """The record as flat arrays of `dtypes`."""
        return [np.asarray(values, dtype).ravel() for values, dtype in zip(self.encode(record), self.dtypes, strict=True)]


def text_array(text: str) -> np.ndarray:
    """A text as bytes, halves of surrogate pairs included."""
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def array_text(values: np.ndarray) -> str:
    """The text of `text_array`."""
    return values.tobytes().decode("utf-8", "surrogatepass")


IDS: Codec[list[int]] = Codec(("<i4",), lambda ids: (ids,), lambda arrays: arrays[0].tolist())
"""Token ids."""


class Spooled(Rows[Record]):
    """A sequence of `size` records on disk, each of which is set once, in any order; the file has no name and leaves no trace."""

    def __init__(self, size: int, codec: Codec[Record], folder: Path | None = None) -> None:
        self.folder, self._codec, self._file = folder, codec, TemporaryFile(dir=folder)  # noqa: SIM115 — closed with the object
        self._starts = np.full(size, -1, np.int64)
        self._lengths = np.zeros((size, len(codec.dtypes)), np.int32)
        self._end = 0

    def __len__(self) -> int:
        return len(self._starts)

    def __setitem__(self, number: int, record: Record) -> None:
        arrays = self._codec.arrays(record)
        content = b"".join(array.tobytes() for array in arrays)
        self._starts[number], self._lengths[number] = self._end, [len(array) for array in arrays]
        self._end += self._file.write(content)

    def _row(self, number: int) -> Record:
        if self._starts[number] < 0:
            raise IndexError(f"record {number} of {len(self)} has not been stored")
        self._file.flush()
        dtypes, sizes = [np.dtype(name) for name in self._codec.dtypes], self._lengths[number]
        total = sum(int(size) * dtype.itemsize for size, dtype in zip(sizes, dtypes, strict=True))
        content, at, arrays = os.pread(self._file.fileno(), total, int(self._starts[number])), 0, []
        for size, dtype in zip(sizes, dtypes, strict=True):
            arrays.append(np.frombuffer(content, dtype, int(size), at).copy())
            at += int(size) * dtype.itemsize
        return self._codec.decode(arrays)


class Lazy(Rows[Made]):
    """`size` values that are made when they are asked for."""

    def __init__(self, size: int, make: Callable[[int], Made]) -> None:
        self._size, self._make = size, make

    def __len__(self) -> int:
        return self._size

    def _row(self, number: int) -> Made:
        return self._make(number)


def room_like(source: Sequence[Any], codec: Codec[Record]) -> "MutableSequence[Record] | Spooled[Record]":
    """Where one record for each of `source` goes: on disk where `source` lies there (`folder`), else a list."""
    if (folder := getattr(source, "folder", None)) is None:
        return [None] * len(source)  # type: ignore[list-item]
    return Spooled(len(source), codec, folder)
