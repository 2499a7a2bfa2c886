"""Local files, folders and globs, read row by row, so that one broken row costs one row and a huge file costs no memory."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from opsd_core.config import ColumnMapping, DataConfig
from opsd_core.config.kinds.places import missing
from opsd_core.config.kinds.sources import FILE_FORMATS, PACKED, SOURCE_KINDS, file_suffix, known_file
from opsd_core.data.globs import is_pattern, matching
from opsd_core.data.records import Asked, Opened, RawRow
from opsd_core.digest import file_digest
from opsd_core.errors import DataError

Reader = Callable[..., Opened]
MAX_FILES = 10_000


def reader(name: str) -> Reader:
    """The function "module.function" of opsd_core.data, as the tables name it."""
    module, _, function = name.rpartition(".")
    return getattr(import_module(f"opsd_core.data.{module}"), function)


def local_files(asked: Asked) -> Opened:
    """The rows of a file, or of all files of a folder or glob in the order of their names."""
    files = source_files(asked.config.source)
    if len(files) == 1:
        return open_file(files[0], asked)
    asked.notes.append(
        f"{len(files)} files are read: {', '.join(file.name for file in files[:5])}{', ...' if files[5:] else ''}"
    )
    _note_others(asked, files)
    return _together(files, asked)


def open_file(path: Path, asked: Asked, suffix: str = "") -> Opened:
    """One file by its suffix, or by `suffix` where its name says nothing.

    Raises DataError for an absent or empty file, an unknown suffix, and as the format's reader.
    """
    suffix = suffix or file_suffix(path.name)
    if not path.is_file():
        if path.is_dir():
            raise DataError(f"data.source={path} is a folder, not a file.")
        raise DataError(missing("data.source", str(path), "an existing file, folder or glob"))
    if path.stat().st_size == 0:
        raise DataError(f"data.source={path} is empty (0 bytes).")
    if not known_file("file" + suffix):
        known = ", ".join(sorted(FILE_FORMATS))
        packed = f", packed with {' or '.join(PACKED)} or not"
        raise DataError(f"data.source={path}: suffix {suffix!r} is not read. Use one of {known}{packed}.")
    return reader(FILE_FORMATS["." + suffix.split(".")[1]].reader)(path, asked)


def source_files(source: str) -> list[Path]:
    """The local files that a source names, sorted: itself, those of a folder, those of a glob.

    DataError for a folder or glob without files that are read, or with files of several formats, which may be one data set twice.
    """
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            found = [file for file in path.iterdir() if file.is_file()]
        elif path.exists() or not is_pattern(source):
            return [path]
        else:
            found = [file for file in matching(str(path)) if file.is_file()]
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of nobody
        raise DataError(f"data.source={source!r:.200} is no path: {str(error)[:200]}.") from error
    files = sorted(file for file in found if known_file(file.name) and not file.name.startswith("."))
    what = "is a folder" if path.is_dir() else "is a glob"
    if not files:
        raise DataError(f"data.source={source} {what} without files that are read ({', '.join(sorted(FILE_FORMATS))}).")
    if len(files) > MAX_FILES:
        raise DataError(f"data.source={source} {what} with {len(files):,} files; at most {MAX_FILES:,} are read.")
    formats = {FILE_FORMATS["." + file_suffix(file.name).split(".")[1]].reader for file in files}
    if len(formats) > 1:
        endings = sorted({file_suffix(file.name) for file in files})
        raise DataError(
            f"data.source={source} {what} with files of several formats ({', '.join(endings)}), which may hold the same rows. "
            f"Name one kind: {path / ('*' + endings[0]) if path.is_dir() else '*' + endings[0]}."
        )
    return files


def source_content(config: DataConfig) -> dict[str, str]:
    """sha256 of every local file of `config.source`; empty where its name alone decides. DataError as `source_files`.

    A file goes by its name, or by its path where two have the same name.
    """
    if config.kind is not SOURCE_KINDS["files"]:
        return {}
    files = [file for file in source_files(config.source) if file.is_file()]
    times = Counter(file.name for file in files)
    return {file.name if times[file.name] == 1 else str(file): file_digest(file) for file in files}


def _note_others(asked: Asked, files: list[Path]) -> None:
    folder = Path(asked.config.source).expanduser()
    others = sorted(file.name for file in folder.iterdir() if file not in files) if folder.is_dir() else []
    if others:
        asked.notes.append(f"not read in the folder: {', '.join(others[:10])}{', ...' if others[10:] else ''}")


def _together(files: list[Path], asked: Asked) -> Opened:
    """All files as one, each opened at its turn; the first one shows the columns."""

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        index = 0
        for file in files:
            for row in open_file(file, asked).rows(columns):
                yield replace(row, index=index, file=file.name)
                index += 1

    return Opened(rows, open_file(files[0], asked).shape)
