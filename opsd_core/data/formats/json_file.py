"""A whole .json file: a list of objects, or one object with such a list among its values, as {"data": [...]}."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opsd_core.config import ColumnMapping
from opsd_core.data.formats.json_lines import object_row
from opsd_core.data.formats.packed import open_bytes
from opsd_core.data.formats.text import text_encoding
from opsd_core.data.json_values import parse
from opsd_core.data.records import Asked, Opened, RawRow
from opsd_core.errors import DataError

MAX_JSON_BYTES = 64 << 20
"""Largest .json file: it must be parsed as a whole, which takes up to twenty times its size in memory."""


def read(path: Path, asked: Asked) -> Opened:
    """The file's objects. Raises DataError for a file that is too large, no JSON, or holds no list of objects."""
    _refuse_large(path, path.stat().st_size)
    with open_bytes(path) as file:
        content = file.read(MAX_JSON_BYTES + 1)
    _refuse_large(path, len(content))
    items = _items(path, _parsed(path, content, asked), asked)
    shape = next((item for item in items if isinstance(item, dict)), {})

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        for index, item in enumerate(items):
            yield object_row(index, item)

    return Opened(rows, shape, num_rows=len(items))


def _refuse_large(path: Path, size: int) -> None:
    if size > MAX_JSON_BYTES:
        raise DataError(
            f"data.source={path} has {size:,} bytes; a .json file of more than {MAX_JSON_BYTES:,} is not parsed at "
            "once. Store it as .jsonl (one object a line) or .parquet."
        )


def _parsed(path: Path, content: bytes, asked: Asked) -> Any:
    encoding = text_encoding(path, asked)
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        raise DataError(
            f"data.source={path} is not {encoding} text at byte {at:,} (line {content[:at].count(10) + 1}): "
            f"{getattr(error, 'reason', error)}. Store it as UTF-8, or name its encoding (data.encoding)."
        ) from error
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"data.source={path} is not valid JSON: {type(error).__name__}: {str(error)[:300]}. "
            "If it holds one object a line, name it .jsonl."
        ) from error


def _items(path: Path, value: Any, asked: Asked) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = {
            name: part
            for name, part in value.items()
            if isinstance(part, list) and any(isinstance(p, dict) for p in part)
        }
        if len(lists) == 1:
            name, part = lists.popitem()
            asked.notes.append(f"{path.name}: the rows are those of its list {name[:80]!r}")
            return part
        if lists:
            raise DataError(
                f"data.source={path} holds several lists of objects: {', '.join(map(repr, lists))}. Store the one to read alone."
            )
    raise DataError(
        f"data.source={path} holds a JSON {type(value).__name__}; a list of objects is read, or an object that holds one list of "
        "objects."
    )
