"""Parquet files. They state how much memory they take; the statement is never trusted.

The footer refuses what is too large by its own account. Pages that hold more than the footer tells, or encodings that blow
up, show only while they are decoded: a process with a memory limit reads the whole file first.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opsd_core.data.records import MAX_LINE_CHARS, RawRow, require_columns
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


def parquet_rows(path: Path, needed: list[str]) -> Iterator[RawRow]:
    """Rows of a .parquet file, with the columns `needed`.

    Raises DataError for a malformed file, columns that are absent or not flat, and a file that would fill the memory.
    """
    _rehearse(path, needed)
    yield from _rows(path, needed)


def _rehearse(path: Path, needed: list[str]) -> None:
    """Read the file in a process of its own. DataError as `_rows`, and when that takes too much memory or crashes the reader."""
    command = [sys.executable, "-m", "opsd_core.data.parquet", str(MAX_READING_BYTES), str(path), *needed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if done.returncode == _REFUSED:
        raise DataError(done.stdout.strip())
    if done.returncode == _TOO_LARGE or "bad_alloc" in done.stderr:
        what = f"takes more than {MAX_READING_BYTES:,} bytes of memory to read, which its footer does not say"
    else:
        what = f"crashes its reader ({done.stderr.strip()[-300:] or f'exit status {done.returncode}'})"
    raise DataError(
        f"data.source={path} {what}. It is damaged or made to do so; write it again from its source, with smaller row groups."
    )


def _read_with_limit(limit: int, path: Path, needed: list[str]) -> int:
    """Exit status of the process that `_rehearse` starts; for `_REFUSED` it has printed the reason."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # others reserve addresses ahead
    pyarrow.set_cpu_count(1)
    if _OWN_MEMORY.exists():
        most = int(_OWN_MEMORY.read_text().split()[0]) * resource.getpagesize() + limit
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        for _ in _rows(path, needed):
            pass
    except MemoryError:
        return _TOO_LARGE
    except DataError as error:
        print(error)
        return _REFUSED
    return 0


def _rows(path: Path, needed: list[str]) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        footer = pyarrow.parquet.read_metadata(path)
        schema = footer.schema.to_arrow_schema()
        require_columns(str(path), needed, schema.names)
        _refuse_nested(path, schema, needed)
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
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"data.source={path} cannot be read as Parquet: {error}. The file is torn, or is another format."
        ) from error


def _has_deltas(footer: Any, name: str) -> bool:
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return any("DELTA" in encoding for c in columns if c.path_in_schema == name for encoding in c.encodings)


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


def _row(index: int, row: int, columns: dict[str, tuple[Any, Any, Any]]) -> RawRow:
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


if __name__ == "__main__":
    sys.exit(_read_with_limit(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
