"""One JSON object a line: .jsonl, .ndjson. A broken line costs one row."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from opsd_core.config import ColumnMapping
from opsd_core.data.formats.text import Line, lines, open_text, text_encoding
from opsd_core.data.json_values import parse
from opsd_core.data.records import Asked, Opened, RawRow

_LOOKED_AT = 20


def read(path: Path, asked: Asked) -> Opened:
    """The file's objects. DataError as `text_encoding`; blank lines are no rows."""
    shape: dict[str, Any] = {}
    encoding = text_encoding(path, asked)
    for row in islice(_rows(path, encoding), _LOOKED_AT):
        shape |= {name: value for name, value in row.values.items() if value is not None}

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        return _rows(path, encoding)

    return Opened(rows, shape)


def _rows(path: Path, encoding: str) -> Iterator[RawRow]:
    with open_text(path, encoding) as text:
        for line in lines(text):
            if line.trouble or line.text.strip():
                yield _row(line)


def _row(line: Line) -> RawRow:
    if line.trouble:
        return RawRow(line.number - 1, unreadable=line.trouble, line=line.number)
    try:
        value = parse(line.text)
    except (ValueError, RecursionError) as error:
        return RawRow(line.number - 1, unreadable=f"not JSON: {type(error).__name__}: {error}"[:300], line=line.number)
    return object_row(line.number - 1, value, line.number)


def object_row(index: int, value: Any, line: int = 0) -> RawRow:
    """A row of a JSON value."""
    if not isinstance(value, dict):
        return RawRow(index, unreadable=f"a JSON {type(value).__name__}, not an object", line=line)
    return RawRow(index, value, line=line)
