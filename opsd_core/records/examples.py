"""Examples: the items of a data set after cleaning, one Parquet file per split."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from opsd_core.records.tables import read_table, write_table

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


@dataclass(frozen=True)
class Example:
    """One item of a dataset after cleaning."""

    id: str
    """16 hex digits of the digest of question, answer and solution."""
    question: str
    answer: str
    """Final answer; empty when the dataset has no labels."""
    solution: str
    """Worked solution; empty when there is none."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON-safe extras that the grader needs (a reasoning-gym entry, for instance)."""


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write a split; metadata becomes a JSON column."""
    columns = {name: [getattr(e, name) for e in examples] for name in ("id", "question", "answer", "solution")}
    columns["metadata"] = [json.dumps(e.metadata, sort_keys=True) for e in examples]
    write_table(path, columns, _SCHEMA)


def read_examples(path: Path) -> list[Example]:
    """Read a split. IntegrityError when the file is not one of this schema version."""
    rows = read_table(path, _SCHEMA).to_pylist()
    return [Example(**row | {"metadata": json.loads(row["metadata"])}) for row in rows]
