"""The files that a pattern names, found with a bound on what is looked at: `**` may mean a whole disk, and links form circles.

As in `glob`: `*`, `?` and `[...]` stand for parts of a name, `**` for any number of folders, and none of them for a name
that begins with a dot. Links are followed; a folder is looked through once, by however many ways it is reached.
"""

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

from opsd_core.errors import DataError

MAX_LOOKED_AT = 200_000
"""Names of files and folders."""
_MAGIC = re.compile(r"[*?[]")


def is_pattern(text: str) -> bool:
    """Whether `text` stands for several files."""
    return _MAGIC.search(text) is not None


def matching(pattern: str, most: int = MAX_LOOKED_AT, field: str = "data.source") -> Iterator[Path]:
    """Files and folders of this pattern, each once.

    DataError, by the setting `field`, when more than `most` names are looked at for them.
    """
    path = Path(pattern)
    walk = _Walk(pattern, most, field)
    yield from walk.below(Path(path.anchor) if path.is_absolute() else Path(), path.parts[1 if path.is_absolute() else 0 :])


class _Walk:
    def __init__(self, pattern: str, most: int, field: str) -> None:
        self.pattern, self.most, self.field, self.looked_at = pattern, most, field, 0
        self.seen: set[tuple[int, int, int]] = set()

    def below(self, folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        waiting = [(folder, parts)]
        while waiting:
            folder, parts = waiting.pop()
            while parts and not is_pattern(parts[0]):
                folder, parts = folder / parts[0], parts[1:]
            if not parts:
                if folder.exists():
                    yield folder
            elif self.is_new(folder, len(parts)):
                found = list(self.step(folder, parts))
                yield from (path for path, rest in found if not rest)
                waiting += [(path, rest) for path, rest in reversed(found) if rest]

    def step(self, folder: Path, parts: tuple[str, ...]) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """What a folder holds of the pattern's next part, each with what is still to be found below it."""
        first, rest = parts[0], parts[1:]
        deep = first == "**"
        if deep and rest:
            yield folder, rest
        fits = re.compile(fnmatch.translate(first)).match
        for entry in self.entries(folder):
            if entry.name.startswith(".") and not first.startswith("."):
                continue
            if deep:
                if _is_folder(entry):
                    yield Path(entry.path), parts
                if not rest:
                    yield Path(entry.path), ()
            elif fits(entry.name) and (not rest or _is_folder(entry)):
                yield Path(entry.path), rest

    def entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self.looked_at += 1
                    if self.looked_at > self.most:
                        raise DataError(
                            f"{self.field}={self.pattern} looks through more than {self.most:,} files and folders. Name the "
                            "folder that holds the files."
                        )
                    yield entry
        except (PermissionError, FileNotFoundError, NotADirectoryError):
            return

    def is_new(self, folder: Path, parts_left: int) -> bool:
        try:
            found = folder.stat()
        except OSError:
            return False
        key = (found.st_dev, found.st_ino, parts_left)
        new = key not in self.seen
        self.seen.add(key)
        return new


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
