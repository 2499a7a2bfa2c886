"""Parquet files. They state how much memory they take; the statement is never trusted.

The footer refuses what is too large by its own account. Pages that hold more than the footer tells, or encodings that blow
up, show only while they are decoded: a process with a memory limit reads the whole file first.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opsd_core.config import ColumnMapping
from opsd_core.data.others import also_there
from opsd_core.data.places import head, heads
from opsd_core.data.records import MAX_LINE_CHARS, Asked, Opened, RawRow, Written, require_columns
from opsd_core.errors import DataError

MAX_CHUNK_BYTES = 2 << 30
"""Largest uncompressed column of a row group: one page may hold all of it."""
MAX_INFLATED_BYTES, MAX_INFLATION = 256 << 20, 100
"""The same for a column that is more than 100 times its compressed size, as no text is that people wrote."""
MAX_READING_BYTES = 4 << 30
"""Most memory that reading a file may take, whatever its footer says; enforced where /proc exists."""
_BATCH_ROWS = 64
_TOO_LARGE, _REFUSED = 3, 4
_OWN_MEMORY = Path("/proc/self/statm")


def read(path: Path, asked: Asked) -> Opened:
    """The file's rows, with the mapped columns and those that are asked for besides.

    Raises DataError for a malformed file, columns that are absent, twice there or not flat, and a file that would fill
    the memory.
    """
    footer = json.loads(_rehearse(path, [])) if asked.config.columns.recognised else {"shape": {}, "num_rows": None}

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        _rehearse(path, columns.mapped, asked.also)
        yield from _rows(path, columns.mapped, asked.also)

    return Opened(rows, footer["shape"], num_rows=footer["num_rows"])


def schema_shape(schema: Any) -> dict[str, Any]:
    """A value of the right kind for each column of an Arrow schema: text, [element] or {field: value}."""
    return {field.name: _shape(field.type) for field in schema}


def _shape(kind: Any) -> Any:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return {field.name: _shape(field.type) for field in kind}
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return [_shape(kind.value_type)]
    return ""


def _rehearse(path: Path, mapped: list[str], also: Sequence[str] = ()) -> str:
    """Read the file, or without columns its footer, in a process of its own; what that printed.

    DataError as `_rows`, and when that takes too much memory or crashes the reader.
    """
    command = [sys.executable, "-m", "opsd_core.data.formats.parquet", str(MAX_READING_BYTES), str(path)]
    command += [str(len(mapped)), *mapped, *also]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    if done.returncode == _REFUSED:
        raise DataError(done.stdout.strip())
    if done.returncode == _TOO_LARGE or "bad_alloc" in done.stderr:
        what = f"takes more than {MAX_READING_BYTES:,} bytes of memory to read, which its footer does not say"
    else:
        what = f"crashes its reader ({done.stderr.strip()[-300:] or f'exit status {done.returncode}'})"
    raise DataError(
        f"data.source={path} {what}. It is damaged or made to do so; write it again from its source, with smaller row groups."
    )


def _read_with_limit(limit: int, path: Path, mapped: list[str], also: list[str]) -> int:
    """Exit status of the process that `_rehearse` starts; for `_REFUSED` it has printed the reason."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # others reserve addresses ahead
    pyarrow.set_cpu_count(1)
    if _OWN_MEMORY.exists():
        most = int(_OWN_MEMORY.read_text().split()[0]) * resource.getpagesize() + limit
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        if not mapped:
            footer = _footer(path)
            print(json.dumps({"num_rows": footer.num_rows, "shape": schema_shape(footer.schema.to_arrow_schema())}))
        for _ in _rows(path, mapped, also) if mapped else ():
            pass
    except MemoryError:
        return _TOO_LARGE
    except DataError as error:
        print(error)
        return _REFUSED
    return 0


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        raise DataError(
            f"data.source={path} cannot be read as Parquet: {error}. The file is torn, or is another format."
        ) from error


def _footer(path: Path) -> Any:
    import pyarrow.parquet

    with _as_data_error(path):
        return pyarrow.parquet.read_metadata(path)


def _rows(path: Path, mapped: list[str], also: Sequence[str]) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    with _as_data_error(path):
        footer = _footer(path)
        schema = footer.schema.to_arrow_schema()
        needed = heads(mapped, schema.names)
        require_columns(str(path), needed, schema.names)
        _refuse_nested(path, schema, mapped)
        needed = list(dict.fromkeys([*needed, *also_there(also, schema.names, str(path))]))
        _refuse_twice(path, schema, needed)
        # Dictionaries stay dictionaries: a row refers to its value instead of holding a copy. Deltas cannot be read so.
        texts = [name for name in needed if schema.field(name).type in (pyarrow.string(), pyarrow.binary())]
        texts = [name for name in texts if not _has_deltas(footer, name)]
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            index = 0
            for group in range(file.metadata.num_row_groups):
                _refuse_inflated(path, file.metadata.row_group(group), needed)
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=needed):
                    columns = {name: _values(batch.column(name)) for name in needed}
                    for row in range(batch.num_rows):
                        yield _row(index, row, columns)
                        index += 1


def _has_deltas(footer: Any, name: str) -> bool:
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return any("DELTA" in encoding for c in columns if c.path_in_schema == name for encoding in c.encodings)


def _values(column: Any) -> tuple[Any, Any, Any]:
    """(which value each row has or None, the values, their lengths in bytes or None) of one Arrow array."""
    import pyarrow
    import pyarrow.compute

    which, values = None, column
    if column.type in (pyarrow.float32(), pyarrow.float16()):  # as doubles they would show digits that nobody wrote
        return None, [None if value is None else Written(str(value)) for value in _short_floats(column)], None
    if pyarrow.types.is_dictionary(column.type):
        which, values = column.indices, column.dictionary
    kind = pyarrow.types
    sized = any(
        test(values.type) for test in (kind.is_string, kind.is_binary, kind.is_large_string, kind.is_large_binary)
    )
    return which, values, pyarrow.compute.binary_length(values) if sized else None


def _short_floats(column: Any) -> list[Any]:
    numbers = column.to_numpy(zero_copy_only=False)
    nulls = column.is_null().to_pylist()
    return [None if null or number != number else number for null, number in zip(nulls, numbers, strict=True)]


def _row(index: int, row: int, columns: dict[str, tuple[Any, Any, Any]]) -> RawRow:
    found: dict[str, Any] = {}
    for name, (which, values, lengths) in columns.items():
        place = row if which is None else which[row].as_py()
        length = lengths[place].as_py() if lengths is not None and place is not None else None
        if length is not None and length > MAX_LINE_CHARS:
            return RawRow(index, unreadable=f"over {MAX_LINE_CHARS:,} characters: column {name!r}, {length:,} bytes")
        try:
            value = None if place is None else values[place]
            found[name] = value.as_py() if hasattr(value, "as_py") else value
        except MemoryError:
            raise
        except Exception as error:  # text that is no UTF-8, dates beyond Python's, unknown time zones
            return RawRow(index, unreadable=f"not text: {error}"[:300])
    return RawRow(index, found)


def _refuse_nested(path: Path, schema: Any, mapped: list[str]) -> None:
    import pyarrow

    for name in mapped:
        _refuse_twice(path, schema, [name if name in schema.names else head(name)])
        if name not in schema.names:
            continue
        shape = _shape(kind := schema.field(name).type)
        if pyarrow.types.is_nested(kind) and not (isinstance(shape, list) and shape == [""]):
            raise DataError(
                f"data.source={path}: column {name!r} holds {str(kind)[:200]}, not text or a number. "
                f"Map a flat column (data.columns), or a place inside it: {name}.field, {name}[0], {name}[user].content."
            )


def _refuse_twice(path: Path, schema: Any, columns: Sequence[str]) -> None:
    for column in columns:
        if schema.names.count(column) > 1:
            raise DataError(
                f"data.source={path} has more than one column named {column!r}. Write it anew with other names."
            )


def _refuse_inflated(path: Path, group: Any, needed: list[str]) -> None:
    """Raises DataError for a row group whose needed columns would not fit the memory, by what its footer says."""
    needed_heads = {
        *needed,
        *(name.split(".")[0] for name in needed),
    }  # a path begins with its column, which may hold dots
    for number in range(group.num_columns):
        column = group.column(number)
        size, stored = column.total_uncompressed_size, max(column.total_compressed_size, 1)
        inflated = size > MAX_INFLATED_BYTES and size > MAX_INFLATION * stored
        if column.path_in_schema.split(".")[0] in needed_heads and (inflated or size > MAX_CHUNK_BYTES):
            raise DataError(
                f"data.source={path}: column {column.path_in_schema!r} has {size:,} bytes in one row group, "
                f"{size // stored:,} times its compressed size; at most {MAX_CHUNK_BYTES:,} are read, "
                f"{MAX_INFLATED_BYTES:,} when that is over {MAX_INFLATION} times. Write the file with smaller row groups."
            )


if __name__ == "__main__":
    last = 4 + int(sys.argv[3])
    sys.exit(_read_with_limit(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[4:last], sys.argv[last:]))
