"""Grades on disk: for each rollout whether it is right and whether it is trained on, with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from opsd_core.records.tables import read_table, write_table

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
    def key(self) -> tuple[str, int]:
        return (self.example_id, self.sample_index)


def write_grades(path: Path, grades: Sequence[GradedRollout]) -> None:
    """Write the grades of an iteration."""
    write_table(path, {name: [getattr(g, name) for g in grades] for name in _SCHEMA.names}, _SCHEMA)


def read_grades(path: Path) -> list[GradedRollout]:
    """Read grades. IntegrityError when the file is not one of this schema version."""
    return [GradedRollout(**row) for row in read_table(path, _SCHEMA).to_pylist()]
