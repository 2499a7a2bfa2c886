"""Parquet files with a fixed, versioned schema: the same values are always the same bytes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opsd_core.errors import IntegrityError

ROWS_PER_GROUP = 256
"""Rows of a row group in files of long rows: what reading one row, or writing the next ones, takes up."""
_STREAM_BYTES = 1 << 18
"""Of a column that are read at a time, so that a file of one large row group is read piece by piece too."""
Item = TypeVar("Item")


def parts_of(items: Iterable[Item], size: int = ROWS_PER_GROUP) -> Iterator[list[Item]]:
    """The items in lists of `size`; the last one may be shorter, none is empty."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def ragged(column: pa.ChunkedArray | pa.Array, dtype: type[np.generic]) -> list[np.ndarray]:
    """One array per row of a column of lists of numbers, without a Python object per number."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    offsets = lists.offsets.to_numpy()
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    values = np.array(lists.values.slice(first, last - first), dtype)
    return [values[start:end] for start, end in pairwise(offsets - first)]


def write_table(path: Path, columns: dict[str, list], schema: pa.Schema) -> None:
    """Write typed columns as Parquet; the bytes depend on nothing but the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")


def write_parts(path: Path, parts: Iterable[dict[str, list]], schema: pa.Schema) -> None:
    """The same, a row group per part; one part at a time is in memory. A file of one part has the bytes of `write_table`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        written = False
        for columns in parts:
            writer.write_table(pa.table(columns, schema=schema))
            written = True
        if not written:
            writer.write_table(schema.empty_table())


def read_table(path: Path, schema: pa.Schema, *later: pa.Schema) -> pa.Table:
    """Read Parquet that must have exactly `schema`, or one of its `later` versions. IntegrityError otherwise."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error
    _check(path, table.schema, (schema, *later))
    return table


def open_table(path: Path, schemas: Sequence[pa.Schema]) -> pq.ParquetFile:
    """A file to be read piece by piece, which has exactly one of `schemas`. IntegrityError otherwise."""
    try:
        file = pq.ParquetFile(path, buffer_size=_STREAM_BYTES, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error
    _check(path, file.schema_arrow, schemas)
    return file


def batches_of(path: Path, schemas: Sequence[pa.Schema], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The file's rows, at most ROWS_PER_GROUP at a time, of these columns. IntegrityError as `open_table`."""
    with open_table(path, schemas) as file:
        known = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        try:
            yield from file.iter_batches(ROWS_PER_GROUP, columns=known, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{path.name} is not a readable Parquet file: {error}.")


def _check(path: Path, found_schema: pa.Schema, schemas: Sequence[pa.Schema]) -> None:
    found = found_schema.metadata or {}
    version = found.get(b"opsd.schema_version")
    schema = next((other for other in schemas if other.metadata[b"opsd.schema_version"] == version), schemas[0])
    wanted = schema.metadata
    if any(found.get(key) != value for key, value in wanted.items()):
        raise IntegrityError(
            f"{path.name} has schema {found.get(b'opsd.schema')!r} version {found.get(b'opsd.schema_version')!r}; this "
            f"version of opsd reads {wanted[b'opsd.schema']!r} version {wanted[b'opsd.schema_version']!r}. "
            "It was written by another version: run the stage again."
        )
    if not found_schema.equals(schema):
        raise IntegrityError(
            f"{path.name} declares schema {wanted[b'opsd.schema']!r}, but its columns differ: {found_schema.names}."
        )
