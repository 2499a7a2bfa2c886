"""Bytes of a file, unpacked while they are read: .gz and .zst, told by their first bytes, and bounded."""

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from opsd_core.config.kinds.sources import PACKED
from opsd_core.errors import DataError

MAX_INFLATED_BYTES, MAX_INFLATION = 256 << 20, 100
"""A file may unpack to 256 MiB, and to more only up to 100 times its size, as no text is that people wrote."""


def _zstd(path: Path) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")


_MAGIC: dict[bytes, tuple[str, Callable[[Path], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.GzipFile),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
}
_REFUSED = {
    b"PK\x03\x04": "a zip archive (an .xlsx workbook is one)",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\x00": "xz data",
    b"PAR1": "a Parquet file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"SQLite format 3\x00": "an SQLite database",
    b"version https://git-lfs": "a Git LFS pointer; the file itself was not fetched",
}


class _Bounded(io.RawIOBase):
    """The unpacked bytes. DataError for torn data and for more than a file of this size may hold."""

    def __init__(self, path: Path, open_stream: Callable[[Path], Any], name: str):
        self._path, self._name, self._read = path, name, 0
        self._most = max(MAX_INFLATED_BYTES, MAX_INFLATION * path.stat().st_size)
        self._stream = open_stream(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import pyarrow

        try:
            part = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
            raise DataError(
                f"data.source={self._path} is torn or no {self._name} data after {self._read:,} unpacked bytes: {error}. Fetch "
                "or pack it again."
            ) from error
        self._read += len(part)
        if self._read > self._most:
            raise DataError(
                f"data.source={self._path} unpacks to more than {self._most:,} bytes, {MAX_INFLATION} times its size or "
                f"{MAX_INFLATED_BYTES:,}, whichever is more. It is damaged or made to do so; unpack it yourself if it is right."
            )
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked. DataError where it is another kind of file, or is not packed as its name says."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
        for magic, (name, open_stream) in _MAGIC.items():
            if start.startswith(magic):
                return io.BufferedReader(_Bounded(path, open_stream, name), 1 << 16)
        for magic, what in _REFUSED.items():
            if start.startswith(magic):
                raise DataError(f"data.source={path} holds {what}, not text. Give a .jsonl, .csv or .parquet file.")
        if path.suffix.lower() in PACKED:
            raise DataError(f"data.source={path} is named {path.suffix}, but is not packed so. Correct its name.")
        return path.open("rb")
    except OSError as error:
        raise DataError(f"data.source={path} cannot be read: {error.strerror or error}.") from error
