"""Parquet files with a fixed, versioned schema: the same values are always the same bytes."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opsd_core.errors import IntegrityError


def ragged(column: pa.ChunkedArray, dtype: type[np.generic]) -> list[np.ndarray]:
    """One array per row of a column of lists of numbers, without a Python object per number."""
    lists = column.combine_chunks()
    values, offsets = np.array(lists.values, dtype), lists.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]


def write_table(path: Path, columns: dict[str, list], schema: pa.Schema) -> None:
    """Write typed columns as Parquet; the bytes depend on nothing but the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")


def read_table(path: Path, schema: pa.Schema, *later: pa.Schema) -> pa.Table:
    """Read Parquet that must have exactly `schema`, or one of its `later` versions. IntegrityError otherwise."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise IntegrityError(f"{path.name} is not a readable Parquet file: {error}.") from error
    found = table.schema.metadata or {}
    version = found.get(b"opsd.schema_version")
    schema = next((other for other in later if other.metadata[b"opsd.schema_version"] == version), schema)
    wanted = schema.metadata
    if any(found.get(key) != value for key, value in wanted.items()):
        raise IntegrityError(
            f"{path.name} has schema {found.get(b'opsd.schema')!r} version {found.get(b'opsd.schema_version')!r}; this "
            f"version of opsd reads {wanted[b'opsd.schema']!r} version {wanted[b'opsd.schema_version']!r}. "
            "It was written by another version: run the stage again."
        )
    if not table.schema.equals(schema):
        raise IntegrityError(
            f"{path.name} declares schema {wanted[b'opsd.schema']!r}, but its columns differ: {table.schema.names}."
        )
    return table
