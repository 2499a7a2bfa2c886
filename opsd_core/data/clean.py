"""From raw rows to examples: every row becomes an example, a counted duplicate, or a listed reason."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from opsd_core.config import ColumnMapping
from opsd_core.data.examples import make_example
from opsd_core.data.others import other_columns
from opsd_core.data.places import PlaceError, unread_messages, value_at
from opsd_core.data.records import MAX_LISTED, RawRow, UnusableRow
from opsd_core.data.values import MAX_FIELD_CHARS, UnusableError, plain_text
from opsd_core.errors import DataError
from opsd_core.records.examples import Example

MAX_TEXT_CHARS = 2 << 30
"""Most characters of all examples together; they are held in memory."""
_MAX_COLUMNS, _MAX_REMARKS, _MANY_ROWS = 10_000, 100, 100_000


@dataclass
class Cleaned:
    """What `clean_rows` found."""

    examples: list[Example]
    unusable: list[UnusableRow]
    """The first hundred."""
    reasons: Counter[str]
    num_rows: int
    num_duplicates: int
    columns: dict[str, None]
    """Every column that occurs in a readable row, in order of appearance."""
    remarks: Counter[str]
    """What was done to rows that were used, with the number of rows."""


def clean_rows(
    rows: Iterable[RawRow],
    columns: ColumnMapping,
    labels_required: bool = True,
    max_chars: int = MAX_TEXT_CHARS,
    max_unusable_fraction: float = 1.0,
    also: Sequence[str] = (),
) -> Cleaned:
    """Examples in source order, first of equals kept. DataError when they have more than `max_chars` characters.

    `also`: columns that examples keep besides those that `other_columns` finds.

    After 100,000 rows of which nine in ten are unusable, more than `max_unusable_fraction`, the rest is not read.
    """
    cleaned = Cleaned([], [], Counter(), 0, 0, {}, Counter())
    seen: set[str] = set()
    num_chars = 0
    for row in rows:
        cleaned.num_rows += 1
        if len(cleaned.columns) < _MAX_COLUMNS:
            cleaned.columns.update(dict.fromkeys(row.values))
        try:
            example = _example(row, columns, labels_required, cleaned.remarks, also)
        except UnusableError as problem:
            cleaned.reasons[problem.kind] += 1
            if len(cleaned.unusable) < MAX_LISTED:
                cleaned.unusable.append(UnusableRow(row.index, problem.kind + problem.detail, row.line, row.file))
            if cleaned.num_rows >= _MANY_ROWS and cleaned.reasons.total() > cleaned.num_rows * max(0.9, max_unusable_fraction):
                break
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


def _example(
    row: RawRow, columns: ColumnMapping, labels_required: bool, remarks: Counter[str], also: Sequence[str]
) -> Example:
    if row.unreadable:
        kind, _, detail = row.unreadable.partition(": ")
        raise UnusableError(kind, f": {detail}" if detail else "")
    question = _text(row.values, columns.question, required=True)
    answer = _text(row.values, columns.answer, required=labels_required, remarks=remarks)
    solution = _text(row.values, columns.solution, required=labels_required)
    if "####" in answer:
        answer = gsm8k_answer(answer)
        if not answer:
            raise UnusableError(f"nothing after '####' in column {columns.answer!r}")
    for role in sorted(set(unread_messages(row.values, columns.mapped))):
        if len(remarks) >= _MAX_REMARKS:
            break
        hint = "; prompts.system is the system message" if role == "system" else ""
        remarks[f"a message of role {role[:40]!r}, which is not read{hint}"] += 1
    others = other_columns(row.values, columns.mapped, also)
    return make_example(question, answer, solution, row.metadata | ({"columns": others} if others else {}))


def gsm8k_answer(text: str) -> str:
    """The final answer of a GSM8K solution: what follows the last '####', without thousands separators."""
    return text.rpartition("####")[2].strip().replace(",", "")


def _text(values: dict[str, Any], column: str, required: bool, remarks: Counter[str] | None = None) -> str:
    """The place as stripped text; "" for a column that is not mapped, or missing where that is allowed.

    With `remarks`, a list of texts and numbers is allowed and counted there.
    """
    if not column:
        return ""
    try:
        value = value_at(values, column)
    except PlaceError as problem:
        raise UnusableError(str(problem)) from problem
    text = plain_text(value, column, lists=remarks is not None)
    if text is None:
        if required:
            raise UnusableError(f"no value in column {column!r}")
        return ""
    if remarks is not None and isinstance(value, list) and len(value) > 1:
        remarks[f"a list in {column!r}, joined by commas; if its items are alternatives, choose one: {column}[0]"] += 1
    if len(text) > MAX_FIELD_CHARS:
        raise UnusableError(f"column {column!r} is longer than {MAX_FIELD_CHARS:,} characters", f" ({len(text):,})")
    if not text and required:
        raise UnusableError(f"column {column!r} is empty")
    return text

