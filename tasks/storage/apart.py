"""Stored models that are a base and an adapter, as whole folders in the cache: `<cache>/<digest of the record>/<files>`.

A whole folder is put together once on a machine and then found, as long as the cache keeps it; every file of it is compared with
its digest like that of any other copy.
"""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opsd_core.digest import digest, file_digest
from opsd_core.errors import IntegrityError
from opsd_core.mlmodel import MLMODEL_NAME, listed_files
from opsd_core.records.apart import RECORD, Apart
from tasks.runtime.folders import local_disk
from tasks.storage.artifacts import describe, fetch
from tasks.storage.cache import damage, enter, remove, staging, touch
from tasks.storage.manifest import Artifact
from tasks.storage.s3 import Store

_LOG = logging.getLogger(__name__)
_LOCK = ".whole.lock"


def whole_folder(store: Store, artifact: Artifact | str, cache: Path) -> Path:
    """The artifact's verified files; of a model that is a base and an adapter the whole folder that they make.

    IntegrityError as `fetch`, and as `whole_of`.
    """
    folder = fetch(store, artifact, cache)
    return whole_of(store, folder, cache) if (folder / RECORD).is_file() else folder


def whole_of(store: Store, folder: Path, cache: Path) -> Path:
    """The whole folder of a local adapter folder, whose base lies in the store.

    IntegrityError when the base is no longer there, and when the two do not make the folder that was recorded.
    """
    from opsd_core.models.storage import apart  # loads torch

    record = Apart.read(folder)
    target = place_of(record, cache)
    if _is_there(target):
        return target
    base = whole_folder(store, base_of(store, record), cache)
    with _one_at_a_time(cache), staging(cache) as staged, local_disk(cache):
        if _is_there(target):  # another process was first
            return target
        apart.put_together(folder, base, staged)
        return enter(staged, target)


@contextmanager
def _one_at_a_time(cache: Path) -> Iterator[None]:
    """Processes of a machine that want a whole folder wait for each other: putting one together holds a model in memory."""
    with (cache / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_there(target: Path) -> bool:
    """Whether the whole folder lies in the cache with every byte right; a damaged one is removed."""
    if not target.is_dir():
        return False
    if (wrong := _damage(target)) is None:
        touch(target)
        return True
    _LOG.warning("%s is damaged (%s); it is put together again.", target, wrong)
    remove(target)
    return False


def place_of(record: Apart, cache: Path) -> Path:
    """Where the whole folder of a record lies in the cache, when it is there."""
    return cache / record.name[:32]


def base_of(store: Store, record: Apart) -> Artifact:
    """The stored base of a record. IntegrityError when it is not the one that the adapter was trained on, or not there."""
    address = store.uri(record.base)
    try:
        found = describe(store, address)
    except IntegrityError as error:
        raise IntegrityError(f"{address}, the base of an adapter that was stored without it: {error}") from error
    if found.digest != record.digest:
        raise IntegrityError(
            f"{address} has the digest {found.digest}, the adapter was trained on {record.digest}. The base was deleted and made "
            "again with another outcome; restore the old files."
        )
    return found


def bases_of(store: Store, address: str) -> list[str]:
    """Addresses of the models below a stored one, the nearest first; none below a whole one."""
    found: list[str] = []
    while name := describe(store, address).summary.get("base"):
        address = store.uri(name)
        found.append(address)
    return found


def _damage(folder: Path) -> str | None:
    """The first difference between a whole folder and what its MLmodel lists; None when every byte is right."""
    try:
        listed = listed_files(folder)
    except IntegrityError as error:
        return str(error)
    if listed is None:
        return f"file {MLMODEL_NAME} is missing"
    own = folder / MLMODEL_NAME
    listed[MLMODEL_NAME] = [own.stat().st_size, file_digest(own)]
    files = [{"name": name, "size": size, "sha256": sha256} for name, (size, sha256) in sorted(listed.items())]
    return damage(folder, Artifact(str(folder), "", digest(files), {"files": files}))
