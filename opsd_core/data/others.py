"""A row's other columns: what items differ by besides question, answer and solution, such as a level, a subject, a source."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from opsd_core.data.places import PlaceError, head, heads, value_at
from opsd_core.data.records import Written
from opsd_core.errors import DataError
from opsd_core.records.examples import Example

_MOST_OTHERS, _SHORT, _LARGEST_NUMBER = 16, 40, 1e15
MOST_CHARS = 200
"""Longest text of a column that is asked for by its name."""


def other_columns(values: Mapping[str, Any], mapped: Sequence[str], also: Sequence[str] = ()) -> dict[str, Any]:
    """The row's short texts, numbers and truth values that are neither question, answer nor solution: what items differ by.

    At most 16, and of texts those of at most 40 characters; longer and nested values are left out. `also`: places that are kept
    besides, with texts of at most 200 characters.
    """
    found = {}
    for place in also:
        try:
            value = _plain(value_at(dict(values), place), MOST_CHARS)
        except PlaceError:
            continue
        if value is not None:
            found[place] = value
    used, most = {head(name) for name in mapped} | set(mapped), len(found) + _MOST_OTHERS
    for name, value in values.items():
        plain = _plain(value, _SHORT)
        if name not in used and name not in found and len(name) <= _SHORT and plain is not None and len(found) < most:
            found[name] = plain
    return found


def _plain(value: Any, most: int) -> str | int | float | None:
    """A text of at most `most` characters, a number or a truth value; None for anything else."""
    value = float(value.text) if isinstance(value, Written) else value
    if isinstance(value, str):
        return value if 0 < len(value) <= most else None
    number = isinstance(value, bool | int | float) and abs(value) < _LARGEST_NUMBER  # nan is not
    return value if number else None


def columns_of(example: Example) -> dict[str, str | float]:
    """The item's own columns: short texts, numbers and truth values of its metadata, nested names joined by dots.

    What a generator kept to grade an answer is not a column: the options of its task, and the answer itself.
    """
    found: dict[str, str | float] = {}
    entry = example.metadata.get("entry")
    nested = entry.get("metadata", {}) if isinstance(entry, dict) else {}
    plain = {name: value for name, value in example.metadata.items() if name not in ("entry", "options", "columns")}
    _flatten(plain, "", found, _SHORT)
    _flatten(example.metadata.get("columns", {}), "", found, MOST_CHARS)
    _flatten(nested, "", found, _SHORT)
    return {name: value for name, value in found.items() if name not in ("solution", "source_index", "source_dataset")}


def _flatten(table: Any, prefix: str, found: dict[str, str | float], most: int) -> None:
    for name, value in table.items() if isinstance(table, dict) else ():
        path = f"{prefix}{name}"[:most]
        if isinstance(value, dict) and prefix.count(".") < 2:
            _flatten(value, f"{path}.", found, most)
        elif isinstance(value, bool):
            found[path] = "yes" if value else "no"
        elif isinstance(value, int | float):
            found[path] = float(value)
        elif isinstance(value, str) and 0 < len(value) <= most:
            found[path] = value


def check_columns(wanted: Sequence[str], examples: Sequence[Example], source: str) -> None:
    """DataError when a column of evaluation.slices has no value that could be shown in any held-out item."""
    known = dict.fromkeys(name for example in examples for name in columns_of(example)) if wanted else {}
    if missing := [name for name in wanted if name not in known]:
        raise _unknown(missing, list(known), source)


def also_there(also: Sequence[str], present: Sequence[str], source: str) -> list[str]:
    """The columns to read for the places `also`. DataError naming those of them that a table does not have."""
    needed = heads(list(also), list(present))
    if missing := [name for name in needed if name not in present]:
        raise _unknown(missing, list(present), source)
    return needed


def _unknown(missing: Sequence[str], known: Sequence[str], source: str) -> DataError:
    near = get_close_matches(missing[0], known, 1)
    there = ", ".join(f"{name[:80]!r}" for name in known[:30]) + (", ..." if len(known) > 30 else "")
    return DataError(
        f"evaluation.slices names {', '.join(f'{name[:80]!r}' for name in missing[:10])}, of which no held-out item of "
        f"data.source={source} has a value (a text of at most {MOST_CHARS} characters, a number, a truth value). There is "
        f"{there or 'no such column'}.{f' Did you mean {near[0]!r}?' if near else ''} Correct evaluation.slices."
    )
