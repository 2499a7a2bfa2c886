"""Examples on disk: one Parquet file per split."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from opsd_core.records.tables import read_table, write_table
from opsd_core.types import Example

SCHEMA_VERSION = 1
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("solution", pa.string()),
        ("metadata", pa.string()),
    ],
    metadata={"opsd.schema": "examples", "opsd.schema_version": str(SCHEMA_VERSION)},
)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write a split; metadata becomes a JSON column."""
    columns = {name: [getattr(e, name) for e in examples] for name in ("id", "question", "answer", "solution")}
    columns["metadata"] = [json.dumps(e.metadata, sort_keys=True) for e in examples]
    write_table(path, columns, _SCHEMA)


def read_examples(path: Path) -> list[Example]:
    """Read a split. IntegrityError when the file is not one of this schema version."""
    rows = read_table(path, _SCHEMA).to_pylist()
    return [Example(**row | {"metadata": json.loads(row["metadata"])}) for row in rows]
