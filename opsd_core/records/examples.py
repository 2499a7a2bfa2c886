"""Examples: the items of a data set after cleaning, one Parquet file per split."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from opsd_core.records.keys import Keys
from opsd_core.records.stored import Stored
from opsd_core.records.tables import batches_of, parts_of, write_parts

SCHEMA_VERSION = 1
_TOGETHER = 1024
"""Examples of a row group."""
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


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write a split, a few examples at a time; metadata becomes a JSON column."""
    write_parts(path, map(_columns, parts_of(examples, _TOGETHER)), _SCHEMA)


def _columns(examples: Sequence[Example]) -> dict[str, list]:
    columns = {name: [getattr(e, name) for e in examples] for name in ("id", "question", "answer", "solution")}
    return columns | {"metadata": [json.dumps(e.metadata, sort_keys=True) for e in examples]}


def read_examples(path: Path) -> list[Example]:
    """Read a split whole. IntegrityError when the file is not one of this schema version."""
    return [example for batch in batches_of(path, [_SCHEMA]) for example in _examples(batch, path.name)]


def _examples(batch: pa.RecordBatch, name: str) -> list[Example]:
    return [Example(**row | {"metadata": json.loads(row["metadata"])}) for row in batch.to_pylist()]


class StoredExamples(Stored[Example]):
    """The examples of several files, read some at a time; errors as `read_examples`."""

    held_bytes = 16 << 20  # contexts that show another item ask for one anywhere

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths, [_SCHEMA], _examples)
        self._by_id: Mapping[str, Example] | None = None

    def ids(self) -> Iterator[str]:
        """Of each example, without the rest of it."""
        return (name for part in self.batches(["id"]) for name in part["id"].to_pylist())

    def by_id(self) -> Mapping[str, Example]:
        """Each example, read when it is asked for."""
        if self._by_id is None:
            self._by_id = _ById(self)
        return self._by_id


class _ById(Mapping[str, Example]):
    def __init__(self, examples: StoredExamples) -> None:
        self._examples = examples
        self._ids = Keys.of((name, 0) for name in examples.ids())
        self._last: Example | None = None

    def __getitem__(self, example_id: str) -> Example:
        if self._last is None or self._last.id != example_id:
            number = self._ids.find((example_id, 0))
            if number < 0:
                raise KeyError(example_id)
            self._last = self._examples[number]
        return self._last

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._ids)

    def __len__(self) -> int:
        return len(self._ids)


class Answers(Mapping[str, str]):
    """The reference answer of each example, by its id."""

    def __init__(self, examples: Mapping[str, Example]) -> None:
        self._examples = examples

    def __getitem__(self, example_id: str) -> str:
        return self._examples[example_id].answer

    def __iter__(self) -> Iterator[str]:
        return iter(self._examples)

    def __len__(self) -> int:
        return len(self._examples)


def by_id(examples: Sequence[Example]) -> Mapping[str, Example]:
    """Examples by their ids; of stored ones none is in memory."""
    return examples.by_id() if isinstance(examples, StoredExamples) else {example.id: example for example in examples}
