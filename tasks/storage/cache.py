"""Verified copies of artifacts on the local disk: `<cache>/<digest>/<files>`, each complete or absent."""

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opsd_core.digest import file_digest
from opsd_core.errors import ServiceError
from tasks.runtime.folders import local_disk, make_folder
from tasks.storage.manifest import Artifact
from tasks.storage.process_mark import process_tag, tagged_process_is_gone

_COPY = re.compile(r"[0-9a-f]{32}")
_TEMPORARY = (".staged-", ".trash-", ".work-")
_VERIFIED: dict[Path, tuple[str, int, int, int]] = {}
"""Files whose bytes this process has read or made: their sha256, inode, size and time of the last change back then."""
_ABANDONED_S = 24 * 3600.0  # a temporary folder unchanged for this long belongs to a killed process of another machine


def copy_of(cache: Path, artifact: Artifact) -> Path:
    """Where the copy lies when there is one."""
    return cache / artifact.digest[:32]


def damage(folder: Path, artifact: Artifact) -> str | None:
    """The first difference between a local folder and the manifest; None when every byte is right.

    A process reads the bytes of an unchanged file once: trainer states of several GB are opened in stage after stage.
    """
    present = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    extra = present - {file["name"] for file in artifact.manifest["files"]}
    if extra:
        return f"file {min(extra)} is not in the manifest"
    for file in artifact.manifest["files"]:
        path = folder / file["name"]
        if file["name"] not in present or path.is_symlink():
            return f"file {file['name']} is missing"
        if path.stat().st_size != file["size"]:
            return f"file {file['name']}: expected {file['size']} bytes, actual {path.stat().st_size}"
        if _VERIFIED.get(path) == (state := _state(path, file["sha256"])):
            continue
        actual = file_digest(path)
        if actual != file["sha256"]:
            return f"file {file['name']}: expected sha256 {file['sha256']}, actual {actual}"
        _VERIFIED[path] = state
    return None


def _state(path: Path, sha256: str) -> tuple[str, int, int, int]:
    found = path.stat()
    return sha256, found.st_ino, found.st_size, found.st_mtime_ns


def need_space(cache: Path, artifact: Artifact) -> None:
    """Raises ServiceError when the disk of the cache cannot hold the artifact's files."""
    make_folder(cache)
    with local_disk(cache):
        free = shutil.disk_usage(cache).free
    if artifact.num_bytes > free:
        raise ServiceError(
            f"{artifact.uri} needs {artifact.num_bytes} bytes, {cache} has {free} free. "
            "Free space there or point OPSD_CACHE to a larger disk."
        )


@contextmanager
def staging(cache: Path) -> Iterator[Path]:
    """The name of a new folder on the cache's disk; what is left there at the end is removed."""
    staged = cache / temporary_name(".staged-")
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def enter(staged: Path, target: Path) -> Path:
    """Move a verified folder into place; a copy that another process placed meanwhile is as good."""
    try:
        staged.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        remove(staged)
    return target


def copy_into(cache: Path, artifact: Artifact, folder: Path) -> None:
    """Keep the files just published, so that a fetch on this machine downloads nothing; on the same disk none is copied."""
    target = copy_of(cache, artifact)
    if target.is_dir():
        return
    with staging(cache) as staged, local_disk(cache):
        for file in artifact.manifest["files"]:
            path = staged / file["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.hardlink_to(folder / file["name"])
            except OSError:  # another disk, or one without links
                shutil.copyfile(folder / file["name"], path)
            else:
                _VERIFIED[target / file["name"]] = _state(path, file["sha256"])
        enter(staged, target)


def prune_cache(cache: Path, max_bytes: int, *, idle_s: float = 300.0) -> int:
    """Remove the least recently fetched copies until `max_bytes` remain; returns the bytes removed.

    Copies fetched within the last `idle_s` seconds stay (a process may be about to open them), and so does everything
    in the folder that is not a copy of an artifact, except temporary folders that a killed process left.
    """
    if not cache.is_dir():
        return 0
    now, copies = time.time(), []
    for folder in cache.iterdir():
        try:
            if folder.name.startswith(_TEMPORARY) and _is_abandoned(folder, now):
                remove(folder)
            elif _COPY.fullmatch(folder.name):
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                copies.append((folder.stat().st_mtime, size, folder))
        except FileNotFoundError:  # another process has just moved or removed it: in use, or no longer there
            continue
    total, removed = sum(size for _, size, _ in copies), 0
    for used_at, size, folder in sorted(copies):
        if total - removed <= max_bytes or used_at > now - idle_s:
            break
        remove(folder)
        removed += size
    return removed


def remove(folder: Path) -> None:
    """Take a folder out of sight in one step, then delete it."""
    trash = folder.with_name(temporary_name(".trash-"))
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash, ignore_errors=True)


def touch(folder: Path) -> None:
    """Note that a copy was used now."""
    os.utime(folder)


def temporary_name(prefix: str) -> str:
    """A new name for a temporary folder of this process; `prefix` is one of `_TEMPORARY`."""
    return f"{prefix}{process_tag()}{uuid.uuid4().hex}"


def _is_abandoned(folder: Path, now: float) -> bool:
    """Whether nobody works in a temporary folder: its process is known to be gone, or it is unchanged for a day."""
    tagged = folder.name.removeprefix(next(prefix for prefix in _TEMPORARY if folder.name.startswith(prefix)))
    return tagged_process_is_gone(tagged) or _last_change(folder) < now - _ABANDONED_S


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
