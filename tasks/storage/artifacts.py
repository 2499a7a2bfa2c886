"""Content-addressed artifacts: find what exists, publish what is new, fetch only what verifies.

Two writers of one identity: the first manifest stands, whatever the second made. A second writer with equal files just
agrees; one with different files (an engine that is not bit for bit reproducible) drops its own and adopts the first,
with a logged warning, or gets an IntegrityError when it asked for `reproducible=True`. Nothing is ever overwritten,
except what cannot be used: a manifest that is unreadable, quarantined or without its objects is replaced, and so are the
damaged objects, so damage heals by running again.
"""

import logging
from pathlib import Path
from typing import Any

from opsd_core.digest import canonical_json, file_digest
from opsd_core.errors import IntegrityError, ServiceError
from tasks.runtime.folders import local_disk
from tasks.storage.cache import copy_into, copy_of, damage, enter, need_space, prune_cache, remove, staging, touch
from tasks.storage.manifest import (
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
from tasks.storage.quarantine import quarantine
from tasks.storage.s3 import Store

__all__ = ["Artifact", "artifact_key", "describe", "discard", "fetch", "find", "prune_cache", "publish", "verify"]

_LOG = logging.getLogger(__name__)
_READS = 4


def find(store: Store, kind: str, identity: dict[str, Any]) -> Artifact | None:
    """The finished artifact of this identity, or None when there is none that can be used.

    The manifest must verify, name this very identity, and all its objects must be there with their lengths;
    contents are verified by `fetch`.
    """
    key = artifact_key(kind, identity)
    found = store.read(f"{key}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
    return None if found is None else _usable(store, key, found[0], identity)


def describe(store: Store, uri: str) -> Artifact:
    """The artifact at `uri` (its folder of files, or its key's address); raises IntegrityError when it is not whole."""
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
    """Upload every file below `folder`, then the manifest; returns the artifact that stands for this identity.

    `summary` (row counts, timings) is stored but is not part of the digest. With `cache`, the files are also copied
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
            copy_into(cache, mine, folder)
        return stands
    for file in manifest["files"]:
        store.delete(f"{data_key(key, manifest)}/{file['name']}")
    message = f"{key} was made twice with different outcomes: {stands.digest} came first, {mine.digest} second"
    if reproducible:
        raise IntegrityError(f"{message}. This stage is meant to be reproducible: code, library or hardware differ.")
    _LOG.warning("%s; the first one stands.", message)
    return stands


def fetch(store: Store, artifact: Artifact | str, cache: Path) -> Path:
    """A local folder with the artifact's files, each verified by length and sha256, downloaded only when needed.

    A damaged copy in the cache is replaced. When the stored bytes themselves are wrong, the artifact is quarantined
    (`tasks.storage.quarantine`) and an IntegrityError names file, expected and actual. Raises ServiceError when every read
    gives other bytes, or when the disk cannot hold them.
    """
    if isinstance(artifact, str):
        artifact = describe(store, artifact)
    check_manifest(artifact.manifest, artifact.uri)
    target = copy_of(cache, artifact)
    if target.is_dir():
        wrong = damage(target, artifact)
        if wrong is None:
            touch(target)
            return target
        _LOG.warning("The cached copy of %s is damaged (%s); it is downloaded again.", artifact.uri, wrong)
        remove(target)
    need_space(cache, artifact)
    wrong = _wrong_objects(store, artifact) and _wrong_objects(store, artifact)  # a listing may be damaged on its way
    if wrong:
        raise IntegrityError(f"{artifact.uri}: {wrong}. Run the stage that makes it again.")
    with staging(cache) as staged:
        for file in artifact.manifest["files"]:
            _download(store, artifact, file, staged / file["name"])
        return enter(staged, target)


def verify(store: Store, uri: str, cache: Path) -> Artifact:
    """The artifact at `uri` after every stored byte of it was read and compared; what lies in the cache is not asked.

    IntegrityError naming the object that is missing, of another length or of another sha256; that one is quarantined. `cache`
    is a folder with room for the largest object.
    """
    artifact = describe(store, uri)
    if wrong := _wrong_objects(store, artifact) and _wrong_objects(store, artifact):
        raise IntegrityError(f"{artifact.uri}: {wrong}.")
    need_space(cache, artifact)
    with staging(cache) as staged:
        for file in artifact.manifest["files"]:
            _download(store, artifact, file, staged / file["name"])
            (staged / file["name"]).unlink()
    return artifact


def discard(store: Store, key: str) -> int:
    """Delete an artifact, manifest first so that nobody finds it half gone; returns the bytes freed."""
    objects = store.list(f"{key}/")
    store.delete(f"{key}/{MANIFEST_NAME}")
    for info in objects:
        store.delete(info.key)
    return sum(info.size for info in objects)


def _artifact(store: Store, key: str, manifest: dict[str, Any]) -> Artifact:
    return Artifact(store.uri(data_key(key, manifest)), key, content_digest(manifest), manifest)


def _usable(store: Store, key: str, data: bytes, identity: dict[str, Any]) -> Artifact | None:
    """The artifact of these manifest bytes if it is readable, the right one and complete; None (logged) otherwise."""
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
    """Write the manifest unless a usable one stands; the artifact that stands in the end."""
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


def _download(store: Store, artifact: Artifact, file: dict[str, Any], path: Path) -> None:
    """One file, read again while each read gives other bytes; the same wrong bytes twice are what is stored."""
    with local_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for _ in range(_READS):
        store.download(f"{artifact.uri[len(store.root) + 1 :]}/{file['name']}", path)
        size, actual = path.stat().st_size, file_digest(path)
        if (size, actual) == (file["size"], file["sha256"]):
            return
        wrong = f"file {file['name']}: expected sha256 {file['sha256']}, actual {actual} ({size} bytes)"
        if actual in seen:
            quarantine(store, artifact, file, actual)
            raise IntegrityError(
                f"{artifact.uri}: {wrong}. The stored object is damaged; it is not used. Trigger the campaign again: "
                "the stage that makes it runs again."
            )
        seen.add(actual)
    raise ServiceError(
        f"{artifact.uri}: {wrong}, and {_READS} reads gave {_READS} different contents. The network or a proxy in "
        "front of the store damages what it carries; nothing of it was used."
    )
