"""Folders that libraries find by themselves, through variables that opsd does not own: for temporary files, and for a hub's.

Python passes over a TMPDIR that it cannot use, silently, and writes somewhere else; a hub's client says what the system said.
"""

import os
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from opsd_core.disk import HUB, temporary_folder, temporary_variable
from opsd_core.errors import ConfigError, ServiceError
from tasks.runtime.folders import make_folder, named_folder

_MIN_FREE_BYTES = 64 << 20
"""Of temporary files; what is large is written to OPSD_CACHE."""


def check_library_folders(environ: MutableMapping[str, str] = os.environ) -> None:
    """Look at the folders of TMPDIR (TEMP, TMP) and HF_HOME before any work; a missing TMPDIR is made.

    A relative TMPDIR, or one with `~`, is made absolute in `environ`, so that child processes mean the same folder. ConfigError
    or ServiceError naming the variable whose folder cannot be used.
    """
    for variable in HUB:
        if text := environ.get(variable):
            named_folder(variable, os.path.expandvars(text))
    if variable := temporary_variable(environ):
        folder = named_folder(variable, environ[variable])
        try:
            make_folder(folder)
        except ServiceError as error:
            raise ConfigError(f"{variable}={environ[variable]!r:.200}: {error} Correct {variable}.") from error
        environ[variable] = str(folder)
        if environ is os.environ:
            tempfile.tempdir = str(folder)  # else a folder that is full now is passed over, and another one filled
    with temporary_folder() as folder:
        (folder / "probe").write_bytes(bytes(4096))
        free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        variable = temporary_variable(environ) or "TMPDIR"
        raise ServiceError(
            f"{Path(tempfile.gettempdir())} has {free / 1e6:.0f} MB free for temporary files, a campaign needs "
            f"{_MIN_FREE_BYTES / 1e6:.0f} MB. Free space there, or set {variable} to a folder on another disk."
        )
