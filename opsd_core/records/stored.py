"""Records of stored files as one sequence: read a row group at a time, in order or by number."""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opsd_core.records.rows import Rows
from opsd_core.records.tables import batches_of, open_table

Record = TypeVar("Record")
_OPEN_FILES = 4
"""That are kept open for the next question."""
_SPARSE = 64
"""From one of so many on, all records are read in turn; fewer are asked for one by one."""
_NOTED_S = 60.0
"""Seconds after which the files are noted as used once more."""


class Stored(Rows[Record]):
    """The rows of `paths`, file after file. IntegrityError when a file is none of `schemas`, now or when it is read.

    While they are read, their folders' time of change is renewed: a cache that removes what was not used lately keeps them.
    """

    held_bytes = 1 << 18
    """Of decoded row groups that are kept for the next question, the last one in any case."""
    folder: Path | None = None
    """Where a stage that makes one record for each of these keeps them while it works; None = in memory."""

    def __init__(
        self,
        paths: Sequence[Path],
        schemas: Sequence[pa.Schema],
        make: Callable[[pa.RecordBatch, str], list[Record]],
        columns: Sequence[str] | None = None,
    ) -> None:
        self.paths, self._schemas, self._make, self._columns = list(paths), schemas, make, columns
        groups: list[tuple[int, int]] = []
        sizes: list[int] = []
        for place, path in enumerate(self.paths):
            with open_table(path, schemas) as file:
                found = file.metadata
                sizes += [found.row_group(group).num_rows for group in range(found.num_row_groups)]
                groups += [(place, group) for group in range(found.num_row_groups)]
        self._groups = np.array(groups, np.int32).reshape(-1, 2)
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self._lock, self._noted = Lock(), time.monotonic()
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._held: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Record]:
        for batch, name in self._batches(self._columns):
            yield from self._make(batch, name)

    def _row(self, number: int) -> Record:
        return next(self.rows([number]))

    def rows(self, numbers: Iterable[int]) -> Iterator[Record]:
        """The records of these numbers, in their order; ascending numbers read every row group once."""
        for number in numbers:
            group = int(np.searchsorted(self._starts, number, "right")) - 1
            table = self._group(group)
            (row,) = table.slice(number - int(self._starts[group]), 1).combine_chunks().to_batches()
            (record,) = self._make(row, self.paths[self._groups[group][0]].name)
            yield record

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns alone, a few rows at a time."""
        return (batch for batch, _ in self._batches(columns))

    def _batches(self, columns: Sequence[str] | None) -> Iterator[tuple[pa.RecordBatch, str]]:
        for path in self.paths:
            for batch in batches_of(path, self._schemas, columns):
                self._note()
                yield batch, path.name

    def _note(self) -> None:
        if time.monotonic() - self._noted > _NOTED_S:
            self._noted = time.monotonic()
            for folder in {path.parent for path in self.paths}:
                with suppress(OSError):
                    os.utime(folder)

    def _group(self, group: int) -> pa.Table:
        with self._lock:
            self._note()
            if group not in self._held:
                place, own = (int(value) for value in self._groups[group])
                file = self._file(place)
                known = None if self._columns is None else [c for c in self._columns if c in file.schema_arrow.names]
                self._held[group] = file.read_row_group(own, columns=known, use_threads=False)
                while len(self._held) > 1 and sum(table.nbytes for table in self._held.values()) > self.held_bytes:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            return self._held[group]

    def _file(self, place: int) -> pq.ParquetFile:
        if place not in self._files:
            self._files[place] = open_table(self.paths[place], self._schemas)
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(place)
        return self._files[place]


class Chosen(Rows[Record]):
    """Those of `source` whose numbers are given, in ascending order."""

    def __init__(self, source: Sequence[Record], numbers: np.ndarray) -> None:
        self._source, self._numbers, self.folder = source, numbers, getattr(source, "folder", None)

    def __len__(self) -> int:
        return len(self._numbers)

    def _row(self, number: int) -> Record:
        return self._source[int(self._numbers[number])]

    def __iter__(self) -> Iterator[Record]:
        if len(self._numbers) * _SPARSE < len(self._source):
            yield from (self._source[int(number)] for number in self._numbers)
            return
        wanted = iter(self._numbers)
        following = next(wanted, None)
        for number, record in enumerate(self._source):
            if following is None:
                return
            if number == following:
                yield record
                following = next(wanted, None)


class Joined(Rows[Record]):
    """Several sequences as one, part after part."""

    def __init__(self) -> None:
        self._parts: list[Sequence[Record]] = []

    def add(self, part: Sequence[Record]) -> None:
        """Its records follow those that are there."""
        self._parts.append(part)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def _row(self, number: int) -> Record:
        for part in self._parts:
            if number < len(part):
                return part[number]
            number -= len(part)
        raise AssertionError("lengths add up")

    def __iter__(self) -> Iterator[Record]:
        return (record for part in self._parts for record in part)
