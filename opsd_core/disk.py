"""What a disk answers instead of writing, in words that name the variable to change.

    REASONS              number of a system's error -> why
    temporary_folder()   a folder for temporary files, gone afterwards
    hub_advice()         what to change where an error comes from the folder in which a hub's files are kept
"""

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from opsd_core.errors import OpsdError, ServiceError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the limit of a file's size is reached",
    errno.EACCES: "permission is denied",
    errno.EPERM: "the system does not allow it",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EEXIST: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
    errno.ELOOP: "its links go in a circle",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EIO: "the disk does not answer as it should",
    errno.ESTALE: "the network's disk was changed or is gone",
}
TEMPORARY = ("TMPDIR", "TEMP", "TMP")
"""Variables that name the folder for temporary files, the first that is set."""
HUB = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_ASSETS_CACHE", "HF_XET_CACHE")
"""Variables that name folders in which a hub's files are kept."""


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files, gone afterwards. ServiceError naming TMPDIR where the disk does not take them."""
    try:
        with tempfile.TemporaryDirectory(prefix="opsd-") as folder:
            yield Path(folder)
    except OSError as error:
        if isinstance(error, OpsdError) or not (isinstance(error, FileNotFoundError) or error.errno in REASONS):
            raise
        raise no_temporary_files(error) from error


def no_temporary_files(error: OSError, environ: Mapping[str, str] = os.environ) -> ServiceError:
    """Where temporary files are written, why they cannot be, and which variable names another place."""
    variable = temporary_variable(environ) or TEMPORARY[0]
    set_to = f" ({variable}={environ[variable]!r:.200})" if variable in environ else ""
    place = tempfile.tempdir or "any of the usual folders"
    why = REASONS.get(error.errno or 0, "the folder is gone" if tempfile.tempdir else "none of them can be written")
    return ServiceError(
        f"Temporary files cannot be written to {place}{set_to}: {why}. Free space there, or set {variable} to a folder on "
        "another disk."
    )


def temporary_variable(environ: Mapping[str, str] = os.environ) -> str | None:
    """The variable that names the folder for temporary files; None where none is set."""
    return next((name for name in TEMPORARY if environ.get(name)), None)


def hub_advice(error: BaseException | None, environ: Mapping[str, str] = os.environ) -> str:
    """A sentence where a disk refused what a hub's files need, else nothing."""
    while error is not None and not (isinstance(error, OSError) and error.errno in REASONS):
        error = error.__cause__ or error.__context__
    if error is None:
        return ""
    named = [f"{name}={environ[name]!r:.200}" for name in HUB if environ.get(name)]
    return (
        f" The hub's files are kept in the folder of HF_HOME{f' ({named[0]})' if named else ''}, where {REASONS[error.errno]}: "
        "set HF_HOME to a folder that can be written."
    )
