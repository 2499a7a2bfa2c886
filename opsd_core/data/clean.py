"""From raw rows to examples: every row becomes an example, a counted duplicate, or a listed reason."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from opsd_core.config import ColumnMapping
from opsd_core.data.examples import make_example
from opsd_core.data.records import RawRow, UnusableRow
from opsd_core.errors import DataError
from opsd_core.records.examples import Example

MAX_FIELD_CHARS = 200_000
"""Longer texts cannot be a prompt and would fill the memory."""
MAX_TEXT_CHARS = 2 << 30
"""Most characters of all examples together; they are held in memory."""
_MAX_COLUMNS = 10_000


@dataclass
class Cleaned:
    """What `clean_rows` found."""

    examples: list[Example]
    unusable: list[UnusableRow]
    reasons: Counter[str]
    num_rows: int
    num_duplicates: int
    columns: dict[str, None]
    """Every column that occurs in a readable row, in order of appearance."""


class _UnusableError(Exception):
    """A reason for leaving a row out; never leaves this module."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(kind)
        self.kind, self.detail = kind, detail


def clean_rows(
    rows: Iterable[RawRow], columns: ColumnMapping, labels_required: bool = True, max_chars: int = MAX_TEXT_CHARS
) -> Cleaned:
    """Examples in source order, first of equals kept. DataError when they have more than `max_chars` characters."""
    cleaned = Cleaned([], [], Counter(), 0, 0, {})
    seen: set[str] = set()
    num_chars = 0
    for row in rows:
        cleaned.num_rows += 1
        if len(cleaned.columns) < _MAX_COLUMNS:
            cleaned.columns.update(dict.fromkeys(row.values))
        try:
            example = _example(row, columns, labels_required)
        except _UnusableError as problem:
            cleaned.reasons[problem.kind] += 1
            cleaned.unusable.append(UnusableRow(row.index, problem.kind + problem.detail))
            continue
        if example.id in seen:
            cleaned.num_duplicates += 1
            continue
        seen.add(example.id)
        num_chars += len(example.question) + len(example.answer) + len(example.solution)
        if num_chars > max_chars:
            raise DataError(
                f"data.source: the first {cleaned.num_rows:,} rows hold {num_chars:,} characters of text, at most "
                f"{max_chars:,} are kept in memory. Read fewer rows: data.size."
            )
        cleaned.examples.append(example)
    return cleaned


def _example(row: RawRow, columns: ColumnMapping, labels_required: bool) -> Example:
    if row.unreadable:
        kind, _, detail = row.unreadable.partition(": ")
        raise _UnusableError(kind, f": {detail}" if detail else "")
    question = _text(row.values, columns.question, required=True)
    answer = _text(row.values, columns.answer, required=labels_required)
    solution = _text(row.values, columns.solution, required=labels_required)
    if "####" in answer:
        answer = gsm8k_answer(answer)
        if not answer:
            raise _UnusableError(f"nothing after '####' in column {columns.answer!r}")
    return make_example(question, answer, solution, row.metadata)


def gsm8k_answer(text: str) -> str:
    """The final answer of a GSM8K solution: what follows the last '####', without thousands separators."""
    return text.rpartition("####")[2].strip().replace(",", "")


def _text(values: dict[str, Any], column: str, required: bool) -> str:
    """The column as stripped text; "" for a column that is not mapped, or missing where that is allowed."""
    if not column:
        return ""
    value = values.get(column)
    if isinstance(value, float) and math.isnan(value):
        value = None
    if value is None:
        if required:
            raise _UnusableError(f"no value in column {column!r}")
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool | int | float):
        value = str(value)
    if not isinstance(value, str):
        raise _UnusableError(f"column {column!r} is {type(value).__name__}, not text or a number")
    if len(value) > MAX_FIELD_CHARS:
        raise _UnusableError(f"column {column!r} is longer than {MAX_FIELD_CHARS:,} characters", f" ({len(value):,})")
    text = value.strip()
    if not text and required:
        raise _UnusableError(f"column {column!r} is empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _UnusableError(f"column {column!r} holds half a surrogate pair, which is not text")
    return text
