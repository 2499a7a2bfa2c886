"""A disk without room, as tests of several kinds need it."""

from pathlib import Path


def fill(path: Path) -> None:
    """A file as large as the disk allows."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
