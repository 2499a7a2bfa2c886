"""Records that could not be sent: one JSON line each in a local file, sent later by this or a later process.

Every process owns one file and holds a lock on it while it lives; files of processes that died are taken over.
"""

import fcntl
import json
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

_LOG = logging.getLogger(__name__)


class Spool:
    """A queue on disk below `folder`; a full disk loses records with a warning, never the caller."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: TextIO | None = None
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex}.jsonl"

    def append(self, record: dict[str, Any]) -> None:
        """Keep one JSON-able record."""
        try:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a+")
                fcntl.flock(self._file, fcntl.LOCK_EX)
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            _LOG.warning("A record for MLflow is lost: it cannot be kept in %s (%s).", self.folder, error)

    def pending(self) -> bool:
        """Whether any file waits (one directory look-up)."""
        return self.folder.is_dir() and any(self.folder.glob("*.jsonl"))

    def empty(self) -> bool:
        """Whether nothing of this process waits."""
        return self._file is None

    def replay(self, send: Callable[[dict[str, Any]], None]) -> None:
        """Send everything in order, dead processes' files first; what `send` raises stops it and keeps the rest."""
        for path in sorted(self.folder.glob("*.jsonl"), key=lambda path: (path == self._path, _modified(path))):
            if path == self._path:
                if self._file is not None:
                    self._drain(self._file, path, send)
                    self._file.close()
                    self._file = None
                continue
            try:
                with path.open("a+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._drain(file, path, send)
            except BlockingIOError:  # its process lives and will send it
                continue

    def _drain(self, file: TextIO, path: Path, send: Callable[[dict[str, Any]], None]) -> None:
        file.seek(0)
        lines = file.readlines()
        sent = 0
        try:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    _LOG.warning("A torn record in %s is skipped.", path)
                else:
                    send(record)
                sent += 1
        finally:
            if sent == len(lines):
                path.unlink(missing_ok=True)
            else:  # a crash before this line sends some records twice, which their receiver must bear
                file.truncate(0)
                file.writelines(lines[sent:])
                file.flush()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
