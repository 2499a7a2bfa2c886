"""What a source is asked for, what it gives row by row, and what loading a dataset returns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opsd_core.config import ColumnMapping, DataConfig
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
    line: int = 0
    """Line of its file, from 1; 0 where there are no lines."""
    file: str = ""
    """Its file, where the source has several."""

    @property
    def place(self) -> str:
        """ "row 3 (line 5 of b.csv)"."""
        where = " of ".join(part for part in (f"line {self.line}" if self.line else "", self.file) if part)
        return f"row {self.index} ({where})" if where else f"row {self.index}"


@dataclass(frozen=True)
class RawRow:
    """One row as its source gave it: the values of a mapping, or the reason why it could not be read."""

    index: int
    values: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    unreadable: str = ""
    line: int = 0
    file: str = ""


@dataclass(frozen=True)
class Written:
    """A number with the digits that its source wrote, which a float would change."""

    text: str


Fetch = Callable[[str], Path]
"""Downloads an s3:// object and returns the local file."""


@dataclass(frozen=True)
class Asked:
    """What a source is asked for."""

    config: DataConfig
    fetch: Fetch | None = None
    notes: list[str] = field(default_factory=list)
    """What the reader has to say about how it read, for the report."""
    also: tuple[str, ...] = ()
    """Places of rows to keep besides the mapped ones (evaluation.slices)."""


@dataclass(frozen=True)
class Opened:
    """A source before its rows are read."""

    rows: Callable[[ColumnMapping], Iterator[RawRow]]
    """The rows, with at least the mapped columns."""
    shape: dict[str, Any] = field(default_factory=dict)
    """Its columns, each with a value of the right kind: text, [list element] or {field: value}."""
    num_rows: int | None = None
    """How many rows there are, where that is known without reading them."""
    columns: ColumnMapping | None = None
    """The columns of a source that brings its own; None = those of the configuration."""
    labels_required: bool = True
    """False where a row may have no answer."""


@dataclass(frozen=True)
class DataReport:
    """Counts of a load. `num_rows = num_examples + num_unusable + num_duplicates`."""

    source: str
    num_rows: int
    """Rows that were read."""
    num_not_read: int
    """Rows after the first data.size."""
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
    """How the source was read where that is not plain: encoding, delimiter, layout, what was left out."""
    columns: dict[str, str]
    """question, solution and answer: where they were found."""

    def lines(self) -> list[str]:
        """The account of every row as sentences, for a log."""
        said = [
            f"data.source={self.source}: {self.num_rows} rows read = {self.num_examples} used + {self.num_unusable} unusable + "
            f"{self.num_duplicates} duplicates."
        ]
        if self.num_not_read:
            said.append(f"Not read: {self.num_not_read} rows (data.size).")
        said += [
            f"Unusable: {count} x {reason}."
            for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1])
        ]
        said += [f"Unusable {row.place}: {row.reason}."[:300] for row in self.unusable[:10]]
        return said + [f"{note}." for note in self.notes]

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


def require_columns(source: str, needed: list[str], present: list[str], hint: str = "") -> None:
    """Raise DataError when a mapped column is missing, naming those that exist."""
    if missing := [column for column in needed if column not in present]:
        shown = ", ".join(f"{name[:80]!r}" for name in present[:50]) + (", ..." if len(present) > 50 else "")
        raise DataError(
            f"data.source={source} has no column {', '.join(map(repr, missing))}. It has: "
            f"{shown or 'none'}. {hint}Set data.columns.question / answer / solution, or data.columns.preset."
        )
