"""Outcomes on disk: one row per completion of a held-out item, judged."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa

from opsd_core.records.tables import read_table, write_table

Mode = Literal["greedy", "sampled", "given"]
"""given = a text of the item, which the policy did not write but was asked the likelihood of."""


@dataclass(frozen=True)
class ItemOutcome:
    """One completion of one item, judged. One row of the stored evaluation."""

    example_id: str
    mode: Mode
    sample_index: int
    """0 for greedy; 0..n-1 for the n sampled completions of an item."""
    correct: bool
    score: float
    """The grader's score in [0, 1]; of a given text its mean log-likelihood, in nats per token."""
    extracted: str | None
    """The final answer found in the text; None when there is none."""
    num_tokens: int
    truncated: bool
    repetition: float
    """Compression factor of the text (filters.repetition_factor)."""
    mean_entropy: float
    """Mean entropy of the policy over the completion's positions, in nats."""
    text: str


SCHEMA_VERSION = 1
_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("mode", pa.string()),
        ("sample_index", pa.int32()),
        ("correct", pa.bool_()),
        ("score", pa.float64()),
        ("extracted", pa.string()),
        ("num_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("repetition", pa.float64()),
        ("mean_entropy", pa.float64()),
        ("text", pa.string()),
    ],
    metadata={"opsd.schema": "outcomes", "opsd.schema_version": str(SCHEMA_VERSION)},
)
assert [field.name for field in fields(ItemOutcome)] == _SCHEMA.names


def write_outcomes(path: Path, outcomes: Sequence[ItemOutcome]) -> None:
    """Write one evaluation, a row per completion."""
    write_table(path, {name: [getattr(o, name) for o in outcomes] for name in _SCHEMA.names}, _SCHEMA)


def read_outcomes(path: Path) -> list[ItemOutcome]:
    """Read one evaluation. IntegrityError when the file is not one of this schema version."""
    return [ItemOutcome(**row) for row in read_table(path, _SCHEMA).to_pylist()]
