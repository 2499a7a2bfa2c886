"""Folders that variables name: absolute, of plain text, and no file, pipe or circle of links.

    named_folder()    the folder that a variable's text means; nothing is made yet
    make_folder()     made where it is not there, or refused in words
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opsd_core.disk import REASONS
from opsd_core.errors import ConfigError, ServiceError

_MOST_BYTES = 1024  # what is kept below it has 255 more, and some systems take 4096 in all


def named_folder(variable: str, text: str) -> Path:
    """The absolute folder that the text of `variable` means; `~` is filled in, relative paths begin where the process is.

    Raises ConfigError for text that cannot name a folder of this machine, and for what is there and is no folder.
    """
    shown = f"{variable}={text!r:.200}"
    if "://" in text:
        raise ConfigError(f"{shown} is an address. Name a folder of this machine.")
    if not text.isprintable() or text != text.strip() or len(text.encode(errors="replace")) > _MOST_BYTES:
        rule = f"at most {_MOST_BYTES:,} bytes of UTF-8, no line breaks or control characters, no space at its ends"
        raise ConfigError(f"{shown} cannot name a folder: {rule}. Correct {variable}.")
    try:
        path = Path(text).expanduser().resolve()
        is_other = path.exists() and not path.is_dir()
        above = next(folder for folder in path.parents if folder.exists())
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of nobody, links in a circle
        why = REASONS.get(getattr(error, "errno", None), str(error)[:200])
        raise ConfigError(f"{shown} cannot name a folder: {why}. Correct {variable}.") from error
    if is_other:
        raise ConfigError(f"{shown} is there and is no folder. Remove it, or name another one.")
    if not above.is_dir():
        raise ConfigError(f"{shown} cannot name a folder: a file is where a folder should be, {above}. Correct {variable}.")
    return path


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it. ServiceError with the reason where the disk does not let it."""
    with local_disk(path):
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
        except FileNotFoundError as error:  # below /proc for instance
            raise ServiceError(f"Cannot make the folder {path}: none can be made there. Name another folder.") from error


@contextmanager
def local_disk(path: Path) -> Iterator[None]:
    """Turn a full or forbidden local disk into a ServiceError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise ServiceError(
            f"Cannot write {path}: {REASONS[error.errno]}. Free space there or point OPSD_STATE, OPSD_CACHE or OPSD_STORE "
            "elsewhere."
        ) from error
