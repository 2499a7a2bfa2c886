"""Local files, read row by row, so that one broken row costs one row and a huge file costs no memory."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opsd_core.data.records import RawRow
from opsd_core.errors import DataError

MAX_LINE_CHARS = 4_000_000
"""Longest line of a .jsonl file; a longer one is an unusable row."""
MAX_JSON_BYTES = 64 << 20
"""Largest .json file: it must be parsed as a whole, which takes up to twenty times its size in memory."""
MAX_CHUNK_BYTES = 2 << 30
"""Largest uncompressed column of a Parquet row group: one page may hold all of it."""
MAX_INFLATED_BYTES, MAX_INFLATION = 256 << 20, 100
"""The same for a column that is more than 100 times its compressed size, as no text is that people wrote."""
_PARQUET_BATCH_ROWS = 64


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


def require_columns(source: str, needed: list[str], present: list[str]) -> None:
    """Raise DataError when a mapped column is missing, naming those that exist."""
    if missing := [column for column in needed if column not in present]:
        raise DataError(
            f"data.source={source} has no column {', '.join(map(repr, missing))}. It has: "
            f"{', '.join(map(repr, present)) or 'none'}. Set data.columns.question / answer / solution."
        )


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


def _parquet(path: Path, needed: list[str]) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        require_columns(str(path), needed, schema.names)
        _refuse_nested(path, schema, needed)
        # Dictionaries stay dictionaries: a row refers to its value instead of holding a copy.
        texts = [name for name in needed if schema.field(name).type in (pyarrow.string(), pyarrow.binary())]
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            index = 0
            for group in range(file.metadata.num_row_groups):
                _refuse_inflated(path, file.metadata.row_group(group), needed)
                for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, row_groups=[group], columns=needed):
                    columns = {name: _values(batch.column(name)) for name in needed}
                    for row in range(batch.num_rows):
                        yield _parquet_row(index, row, columns)
                        index += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"data.source={path} cannot be read as Parquet: {error}. The file is torn, or is another format."
        ) from error


def _values(column: Any) -> tuple[Any, Any, Any]:
    """(which value each row has or None, the values, their lengths in bytes or None) of one Arrow array."""
    import pyarrow
    import pyarrow.compute

    which, values = None, column
    if pyarrow.types.is_dictionary(column.type):
        which, values = column.indices, column.dictionary
    kind = pyarrow.types
    sized = any(test(values.type) for test in (kind.is_string, kind.is_binary, kind.is_large_string, kind.is_large_binary))
    return which, values, pyarrow.compute.binary_length(values) if sized else None


def _parquet_row(index: int, row: int, columns: dict[str, tuple[Any, Any, Any]]) -> RawRow:
    found: dict[str, Any] = {}
    for name, (which, values, lengths) in columns.items():
        place = row if which is None else which[row].as_py()
        length = lengths[place].as_py() if lengths is not None and place is not None else None
        if length is not None and length > MAX_LINE_CHARS:
            return RawRow(index, unreadable=f"over {MAX_LINE_CHARS:,} characters: column {name!r}, {length:,} bytes")
        try:
            found[name] = None if place is None else values[place].as_py()
        except ValueError as error:
            return RawRow(index, unreadable=f"not text: {error}"[:300])
    return RawRow(index, found)


def _refuse_nested(path: Path, schema: Any, needed: list[str]) -> None:
    import pyarrow

    for name in needed:
        if pyarrow.types.is_nested(schema.field(name).type):
            raise DataError(
                f"data.source={path}: column {name!r} holds {str(schema.field(name).type)[:200]}, not text or a number. "
                "Map a flat column (data.columns), or flatten it first."
            )


def _refuse_inflated(path: Path, group: Any, needed: list[str]) -> None:
    """Raises DataError for a row group whose needed columns would not fit the memory, by what its footer says."""
    for number in range(group.num_columns):
        column = group.column(number)
        size, stored = column.total_uncompressed_size, max(column.total_compressed_size, 1)
        inflated = size > MAX_INFLATED_BYTES and size > MAX_INFLATION * stored
        if column.path_in_schema in needed and (inflated or size > MAX_CHUNK_BYTES):
            raise DataError(
                f"data.source={path}: column {column.path_in_schema!r} has {size:,} bytes in one row group, "
                f"{size // stored:,} times its compressed size; at most {MAX_CHUNK_BYTES:,} are read, "
                f"{MAX_INFLATED_BYTES:,} when that is over {MAX_INFLATION} times. Write the file with smaller row groups."
            )


READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
