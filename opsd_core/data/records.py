"""What loading a dataset returns."""

from dataclasses import dataclass, field
from typing import Any

from opsd_core.digest import digest
from opsd_core.errors import DataError
from opsd_core.records.examples import Example

MAX_LISTED = 100
MAX_LINE_CHARS = 4_000_000
"""Longest line of a text file, longest value of a column; a longer one is an unusable row."""


@dataclass(frozen=True)
class UnusableRow:
    """One row that was left out, and why."""

    index: int
    """Position in the source, from 0; a line number minus one for .jsonl."""
    reason: str


@dataclass(frozen=True)
class RawRow:
    """One row as its source gave it: the values of a mapping, or the reason why it could not be read."""

    index: int
    values: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    unreadable: str = ""


@dataclass(frozen=True)
class DataReport:
    """Counts of a load. `num_rows = num_examples + num_unusable + num_duplicates`."""

    source: str
    num_rows: int
    num_examples: int
    num_unusable: int
    num_duplicates: int
    """Rows whose question, answer and solution repeat an earlier row; left out, not counted as unusable."""
    num_unlabelled: int
    """Examples without an answer, when the dataset is allowed to have none."""
    num_repeated_questions: int
    """Examples that share their question with another one; both are always in the same split."""
    reasons: dict[str, int]
    """Unusable rows by reason."""
    unusable: tuple[UnusableRow, ...]
    """The first 100 unusable rows."""
    sizes: dict[str, int]
    digests: dict[str, str]
    """sha256 of each split's ids; equal digests mean equal items."""
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe copy."""
        return {**vars(self), "unusable": [vars(row) for row in self.unusable], "notes": list(self.notes)}


@dataclass(frozen=True)
class LoadedData:
    """Three disjoint lists of examples, each sorted by id, and the account of how they came about."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    report: DataReport


def split_digest(examples: list[Example]) -> str:
    """sha256 of the ids, whatever their order."""
    return digest(sorted(example.id for example in examples))


def require_columns(source: str, needed: list[str], present: list[str]) -> None:
    """Raise DataError when a mapped column is missing, naming those that exist."""
    if missing := [column for column in needed if column not in present]:
        raise DataError(
            f"data.source={source} has no column {', '.join(map(repr, missing))}. It has: "
            f"{', '.join(map(repr, present)) or 'none'}. Set data.columns.question / answer / solution."
        )
