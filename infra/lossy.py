"""Output that a full disk cannot turn into an error: lines of a log are lost, and never the run or the thread that wrote them."""

from contextlib import suppress
from typing import Any, TextIO


class Lossy:
    """A text stream that drops what cannot be written. Everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As many characters as were given."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """What cannot be written now is tried again with the next line."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
