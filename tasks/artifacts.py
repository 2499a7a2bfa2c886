"""Content-addressed artefacts: find what exists, publish what is new, fetch only what verifies.

Two writers of one identity: the first manifest stands, whatever the second made. A second writer with equal files just
agrees; one with different files (an engine that is not bit for bit reproducible) drops its own and adopts the first,
with a logged warning, or gets an IntegrityError when it asked for `reproducible=True`. Nothing is ever overwritten,
except a manifest that cannot be read or whose objects are gone: that one is replaced, so damage heals by running again.
"""

import logging
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from opsd_core.digest import canonical_json, file_digest
from opsd_core.errors import IntegrityError, ServiceError
from tasks.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Artifact,
    artifact_key,
    check_manifest,
    content_digest,
    data_key,
    describe_folder,
    parse_manifest,
)
from tasks.store import Store
from tasks.store_base import local_disk

__all__ = ["Artifact", "artifact_key", "describe", "discard", "fetch", "find", "prune_cache", "publish"]

_LOG = logging.getLogger(__name__)
_COPY = re.compile(r"[0-9a-f]{32}")
_TEMPORARY = (".staged-", ".trash-", ".work-")
_ABANDONED_S = 24 * 3600.0  # a temporary folder unchanged for this long belongs to a killed process


def find(store: Store, kind: str, identity: dict[str, Any]) -> Artifact | None:
    """The finished artefact of this identity, or None when there is none that can be used.

    The manifest must verify, name this very identity, and all its objects must be there with their lengths;
    contents are verified by `fetch`.
    """
    key = artifact_key(kind, identity)
    found = store.read(f"{key}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
    return None if found is None else _usable(store, key, found[0], identity)


def describe(store: Store, uri: str) -> Artifact:
    """The artefact at `uri` (its folder of files, or its key's address); raises IntegrityError when it is not whole."""
    parts = store.key_of(uri.rstrip("/")).split("/")
    key = "/".join(parts[:2])
    artifact = _artifact(store, key, parse_manifest(store.get(f"{key}/{MANIFEST_NAME}"), uri))
    if len(parts) > 2 and artifact.uri != uri.rstrip("/"):
        raise IntegrityError(
            f"{uri} is no longer what {key} holds (now {artifact.uri}): it was deleted and made again with another "
            "outcome. Use the new address, or restore the old files."
        )
    return artifact


def publish(
    store: Store,
    kind: str,
    identity: dict[str, Any],
    folder: Path,
    summary: dict[str, Any],
    *,
    reproducible: bool = False,
    cache: Path | None = None,
) -> Artifact:
    """Upload every file below `folder`, then the manifest; returns the artefact that stands for this identity.

    `summary` (row counts, timings) is stored but is no part of the digest. With `cache`, the files are also copied
    into that cache so that a `fetch` on this machine downloads nothing. Raises IntegrityError when `reproducible` and
    another writer published different files.
    """
    key = artifact_key(kind, identity)
    manifest = describe_folder(kind, identity, folder, summary)
    mine = _artifact(store, key, manifest)
    for file in manifest["files"]:
        store.put(f"{data_key(key, manifest)}/{file['name']}", folder / file["name"])
    stands = _commit(store, mine, identity)
    if stands.uri == mine.uri:
        if cache is not None:
            _copy_into_cache(cache, mine, folder)
        return stands
    for file in manifest["files"]:
        store.delete(f"{data_key(key, manifest)}/{file['name']}")
    message = f"{key} was made twice with different outcomes: {stands.digest} came first, {mine.digest} second"
    if reproducible:
        raise IntegrityError(f"{message}. This stage is meant to be reproducible: code, library or hardware differ.")
    _LOG.warning("%s; the first one stands.", message)
    return stands


def fetch(store: Store, artifact: Artifact | str, cache: Path) -> Path:
    """A local folder with the artefact's files, each verified by length and sha256, downloaded only when needed.

    A damaged copy in the cache is replaced once. Raises IntegrityError naming file, expected and actual when the
    stored bytes are wrong, and ServiceError when the disk cannot hold them.
    """
    if isinstance(artifact, str):
        artifact = describe(store, artifact)
    check_manifest(artifact.manifest, artifact.uri)
    target = cache / artifact.digest[:32]
    if target.is_dir():
        damage = _damage(target, artifact)
        if damage is None:
            os.utime(target)
            return target
        _LOG.warning("The cached copy of %s is damaged (%s); it is downloaded again.", artifact.uri, damage)
        _remove(target)
    with local_disk(cache):
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if artifact.num_bytes > free:
            raise ServiceError(
                f"{artifact.uri} needs {artifact.num_bytes} bytes, {cache} has {free} free. "
                "Free space there or point OPSD_CACHE to a larger disk."
            )
    wrong = _wrong_objects(store, artifact)
    if wrong:
        raise IntegrityError(f"{artifact.uri}: {wrong}. Run the stage that makes it again.")
    staged = cache / f".staged-{uuid.uuid4().hex}"
    try:
        for last_try in (False, True):
            _download(store, artifact, staged)
            damage = _damage(staged, artifact)
            if damage is None:
                return _enter_cache(staged, target)
            _remove(staged)
            if last_try:
                raise IntegrityError(f"{artifact.uri}: {damage}. The stored object is damaged; it is not used.")
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    raise AssertionError("unreachable")


def discard(store: Store, key: str) -> int:
    """Delete an artefact, manifest first so that nobody finds it half gone; returns the bytes freed."""
    objects = store.list(f"{key}/")
    store.delete(f"{key}/{MANIFEST_NAME}")
    for info in objects:
        store.delete(info.key)
    return sum(info.size for info in objects)


def prune_cache(cache: Path, max_bytes: int, *, idle_s: float = 300.0) -> int:
    """Remove the least recently fetched copies until `max_bytes` remain; returns the bytes removed.

    Copies fetched within the last `idle_s` seconds stay (a process may be about to open them), and so does everything
    in the folder that is no copy of an artefact, except temporary folders that a killed process left.
    """
    if not cache.is_dir():
        return 0
    now, copies = time.time(), []
    for folder in cache.iterdir():
        if folder.name.startswith(_TEMPORARY) and _last_change(folder) < now - _ABANDONED_S:
            _remove(folder)
        elif _COPY.fullmatch(folder.name):
            files = [path for path in folder.rglob("*") if path.is_file()]
            copies.append((folder.stat().st_mtime, sum(path.stat().st_size for path in files), folder))
    total, removed = sum(size for _, size, _ in copies), 0
    for used_at, size, folder in sorted(copies):
        if total - removed <= max_bytes or used_at > now - idle_s:
            break
        _remove(folder)
        removed += size
    return removed


def _artifact(store: Store, key: str, manifest: dict[str, Any]) -> Artifact:
    return Artifact(store.uri(data_key(key, manifest)), key, content_digest(manifest), manifest)


def _usable(store: Store, key: str, data: bytes, identity: dict[str, Any]) -> Artifact | None:
    """The artefact of these manifest bytes if it is readable, the right one and complete; None (logged) otherwise."""
    where = f"{store.root}/{key}"
    try:
        artifact = _artifact(store, key, parse_manifest(data, where))
    except IntegrityError as error:
        _LOG.warning("%s The stage runs again.", error)
        return None
    if canonical_json(artifact.identity) != canonical_json(identity):
        _LOG.warning("%s: its manifest names another identity; the stage runs again.", where)
        return None
    wrong = _wrong_objects(store, artifact)
    if wrong:
        _LOG.warning("%s: %s; the stage runs again.", where, wrong)
        return None
    return artifact


def _commit(store: Store, mine: Artifact, identity: dict[str, Any]) -> Artifact:
    """Write the manifest unless a usable one stands; the artefact that stands in the end."""
    name, data = f"{mine.key}/{MANIFEST_NAME}", canonical_json(mine.manifest).encode()
    while not store.put_if_absent(name, data):
        found = store.read(name)
        if found is None:
            continue
        standing = _usable(store, mine.key, found[0], identity)
        if standing is not None:
            return standing
        if store.put_if_match(name, data, found[1]):
            break
    return mine


def _wrong_objects(store: Store, artifact: Artifact) -> str | None:
    """What is missing or has the wrong length among the stored objects; None when all is there (one listing)."""
    prefix = artifact.uri[len(store.root) + 1 :] + "/"
    sizes = {info.key[len(prefix) :]: info.size for info in store.list(prefix)}
    for file in artifact.manifest["files"]:
        size = sizes.get(file["name"])
        if size != file["size"]:
            actual = "is missing" if size is None else f"has {size} bytes"
            return f"object {file['name']} {actual}, the manifest says {file['size']} bytes"
    return None


def _download(store: Store, artifact: Artifact, folder: Path) -> None:
    prefix = artifact.uri[len(store.root) + 1 :]
    for file in artifact.manifest["files"]:
        path = folder / file["name"]
        with local_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        store.download(f"{prefix}/{file['name']}", path)


def _damage(folder: Path, artifact: Artifact) -> str | None:
    """The first difference between a local folder and the manifest; None when every byte is right."""
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
        actual = file_digest(path)
        if actual != file["sha256"]:
            return f"file {file['name']}: expected sha256 {file['sha256']}, actual {actual}"
    return None


def _enter_cache(staged: Path, target: Path) -> Path:
    """Move a verified folder into place; a copy that another process placed meanwhile is as good."""
    try:
        staged.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        _remove(staged)
    return target


def _copy_into_cache(cache: Path, artifact: Artifact, folder: Path) -> None:
    target = cache / artifact.digest[:32]
    if target.is_dir():
        return
    staged = cache / f".staged-{uuid.uuid4().hex}"
    with local_disk(cache):
        staged.mkdir(parents=True)
        shutil.copytree(folder, staged, dirs_exist_ok=True)
        _enter_cache(staged, target)


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def _remove(folder: Path) -> None:
    """Take a folder out of sight in one step, then delete it."""
    trash = folder.with_name(f".trash-{uuid.uuid4().hex}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash, ignore_errors=True)
