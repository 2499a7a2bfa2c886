"""Grades on disk: for each rollout whether it is right and whether it is trained on, with the reason."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from opsd_core.records.keys import ByKey, Key, Keys
from opsd_core.records.rows import Rows
from opsd_core.records.tables import parts_of, read_table, write_table

SCHEMA_VERSION = 3
_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("sample_index", pa.int32()),
        ("correct", pa.bool_()),
        ("score", pa.float32()),
        ("extracted", pa.string()),
        ("keep", pa.bool_()),
        ("reason", pa.string()),
        ("weight", pa.float32()),
        ("leaks", pa.bool_()),
        ("agreement", pa.float32()),
        ("agrees", pa.bool_()),
        ("teacher_gain", pa.float32()),
    ],
    metadata={"opsd.schema": "grades", "opsd.schema_version": str(SCHEMA_VERSION)},
)


@dataclass(frozen=True)
class GradedRollout:
    """One rollout's grade and the filters' decision."""

    example_id: str
    sample_index: int
    correct: bool | None
    """None when the item has no label."""
    score: float | None
    extracted: str | None
    keep: bool
    reason: str
    weight: float = 1.0
    """Factor of all its tokens in training."""
    leaks: bool = False
    agreement: float | None = None
    """Share of the prompt's completions that give its most frequent answer."""
    agrees: bool | None = None
    teacher_gain: float | None = None
    """Nats per answer token by which the teacher, with its context, is ahead of the policy; None when not probed."""

    @property
    def key(self) -> Key:
        return (self.example_id, self.sample_index)


_IN_MEMORY = pa.schema([pa.field(f.name, pa.float64() if f.type == pa.float32() else f.type) for f in _SCHEMA])
_TOGETHER = 512


class Grades(Rows[GradedRollout]):
    """Grades as columns, some 70 bytes a completion; a row becomes an object when it is asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, rows: Iterable[GradedRollout]) -> "Grades":
        """The rows, as exact as they come."""
        made = (pa.table(_columns(part), schema=_IN_MEMORY) for part in parts_of(rows, _TOGETHER))
        return cls(pa.concat_tables([_IN_MEMORY.empty_table(), *made]))

    @classmethod
    def read(cls, path: Path) -> "Grades":
        """As `read_grades`."""
        return cls(read_table(path, _SCHEMA))

    def __len__(self) -> int:
        return self.table.num_rows

    def _row(self, number: int) -> GradedRollout:
        return GradedRollout(**self.table.slice(number, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[GradedRollout]:
        for batch in self.table.to_batches(_TOGETHER):
            yield from (GradedRollout(**row) for row in batch.to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def column(self, name: str) -> Iterator[Any]:
        """One value of each row."""
        return (value for batch in self.table.select([name]).to_batches(_TOGETHER) for value in batch[name].to_pylist())

    def keys(self) -> Keys:
        """Which completions these are of."""
        parts = self.table.select(["example_id", "sample_index"]).to_batches(_TOGETHER)
        return Keys((part["example_id"].to_pylist(), part["sample_index"].to_numpy()) for part in parts)

    def by_key(self) -> Mapping[Key, GradedRollout]:
        """Each completion's grade."""
        return ByKey(self.keys(), self.__getitem__)

    def correct(self) -> Mapping[Key, bool | None]:
        """Whether each completion is right."""
        right = self.table["correct"].combine_chunks()
        return ByKey(self.keys(), lambda number: right[number].as_py())


def _columns(grades: Sequence[GradedRollout]) -> dict[str, list]:
    return {name: [getattr(g, name) for g in grades] for name in _SCHEMA.names}


def write_grades(path: Path, grades: Sequence[GradedRollout]) -> None:
    """Write the grades of an iteration."""
    columns = grades if isinstance(grades, Grades) else Grades.of(grades)
    table = columns.table.cast(_SCHEMA).combine_chunks()
    write_table(path, {name: table[name] for name in _SCHEMA.names}, _SCHEMA)


def read_grades(path: Path) -> list[GradedRollout]:
    """Read grades as objects. IntegrityError when the file is not one of this schema version."""
    return list(Grades.read(path))
