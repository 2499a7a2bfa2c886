"""Local files, read row by row, so that one broken row costs one row and a huge file costs no memory."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opsd_core.data.parquet import parquet_rows
from opsd_core.data.records import MAX_LINE_CHARS, RawRow, require_columns
from opsd_core.errors import DataError

MAX_JSON_BYTES = 64 << 20
"""Largest .json file: it must be parsed as a whole, which takes up to twenty times its size in memory."""


def file_rows(path: Path, suffix: str, needed: list[str]) -> Iterator[RawRow]:
    """Rows of a .jsonl, .json, .csv or .parquet file.

    Raises DataError for an absent, empty or malformed file, an unknown suffix, or columns that are not there.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"data.source={path} {what}. Check the path; it is read from the worker's working directory.")
    if path.stat().st_size == 0:
        raise DataError(f"data.source={path} is empty (0 bytes).")
    if suffix not in READERS:
        raise DataError(f"data.source={path}: suffix {suffix!r} is not read. Use one of {', '.join(sorted(READERS))}.")
    return READERS[suffix](path, needed)


def _jsonl(path: Path, needed: list[str]) -> Iterator[RawRow]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for index, (line, whole) in enumerate(_lines(file)):
            if not line.strip():
                continue
            yield _json_row(index, line) if whole else RawRow(index, unreadable=f"over {MAX_LINE_CHARS:,} characters")


def _lines(file: Any) -> Iterator[tuple[str, bool]]:
    """(line, True) or, for a line that is too long, (its beginning, False)."""
    while line := file.readline(MAX_LINE_CHARS):
        whole = line.endswith("\n") or len(line) < MAX_LINE_CHARS
        rest = line
        while not whole and rest and not rest.endswith("\n"):
            rest = file.readline(MAX_LINE_CHARS)
        yield line, whole


def _json_row(index: int, line: str) -> RawRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RawRow(index, unreadable=f"not JSON: {type(error).__name__}: {error}"[:300])
    return _object_row(index, value)


def _object_row(index: int, value: Any) -> RawRow:
    if not isinstance(value, dict):
        return RawRow(index, unreadable=f"a JSON {type(value).__name__}, not an object")
    return RawRow(index, value)


def _json(path: Path, needed: list[str]) -> Iterator[RawRow]:
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise DataError(
            f"data.source={path} has {size:,} bytes; a .json file of more than {MAX_JSON_BYTES:,} is not parsed at "
            "once. Store it as .jsonl (one object a line) or .parquet."
        )
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"data.source={path} is not valid JSON: {type(error).__name__}: {error}. "
            "If it holds one object a line, name it .jsonl."
        ) from error
    if not isinstance(value, list):
        raise DataError(f"data.source={path} holds a JSON {type(value).__name__}; a list of objects is read.")
    for index, item in enumerate(value):
        yield _object_row(index, item)


def _csv(path: Path, needed: list[str]) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_LINE_CHARS)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(_bounded_lines(path, file), restkey="", restval=None, strict=False)
        try:
            require_columns(str(path), needed, list(reader.fieldnames or []))
            for index, values in enumerate(reader):
                if "" in values and "" not in (reader.fieldnames or []):
                    yield RawRow(index, unreadable="more fields than the header has")
                else:
                    yield RawRow(index, values)
        except csv.Error as error:
            raise DataError(f"data.source={path} is malformed at line {reader.line_num}: {error}.") from error


def _bounded_lines(path: Path, file: Any) -> Iterator[str]:
    for number, (line, whole) in enumerate(_lines(file), 1):
        if not whole:
            raise DataError(f"data.source={path}: line {number} has more than {MAX_LINE_CHARS:,} characters. Is it CSV?")
        yield line


READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": parquet_rows}
