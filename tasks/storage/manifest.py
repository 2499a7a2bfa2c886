"""What an artifact is: a manifest that says who it is, what made it, and every file's length and sha256.

    <kind>/<identity digest, 32 hex>/MANIFEST.json            written last, by conditional put: makes the artifact visible
    <kind>/<identity digest, 32 hex>/<files digest, 16 hex>/  the files

The identity is the recipe (inputs, configuration), known before the work; the files digest is the outcome. Because the
files of two different outcomes lie in different folders, a second writer can never change what the first published.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opsd_core.digest import canonical_json, digest, file_digest
from opsd_core.errors import ConfigError, IntegrityError
from tasks.storage.base import check_key

MANIFEST_NAME = "MANIFEST.json"
MAX_MANIFEST_BYTES = 16 << 20
QUARANTINED = "quarantined"
"""The entry of a record that stands in a damaged artifact's manifest's place (`tasks.storage.quarantine`)."""
SCHEMA_VERSION = 1
"""Raised when stored formats or their meaning change: every identity then changes too."""

_KIND = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Artifact:
    """A published artifact; JSON-able, fit to travel between tasks."""

    uri: str
    """Folder of the files, loadable by anything that reads the store."""
    key: str
    """`<kind>/<identity digest>`."""
    digest: str
    """sha256 of kind, identity and files: equal digests mean equal bytes made by the same recipe."""
    manifest: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """The full recipe that made it."""
        return self.manifest["identity"]

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and figures about the content; not part of the digest."""
        return self.manifest["summary"]

    @property
    def num_bytes(self) -> int:
        """Total length of the files."""
        return sum(file["size"] for file in self.manifest["files"])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(record: dict[str, Any]) -> "Artifact":
        """The artifact that `to_dict` described; raises IntegrityError when manifest and digest disagree."""
        artifact = Artifact(**record)
        check_manifest(artifact.manifest, artifact.uri)
        if artifact.digest != content_digest(artifact.manifest):
            raise IntegrityError(f"{artifact.uri}: the record says {artifact.digest}, its manifest says otherwise.")
        return artifact


def artifact_key(kind: str, identity: dict[str, Any]) -> str:
    """`<kind>/<32 hex digits>` from the recipe and the schema version; raises ConfigError for a malformed kind."""
    if not _KIND.fullmatch(kind):
        raise ConfigError(f"{kind!r} is no artifact kind: lowercase letters, digits, '-' and '_', a letter first.")
    return f"{kind}/{digest({'schema': SCHEMA_VERSION, 'kind': kind, 'identity': identity})[:32]}"


def data_key(key: str, manifest: dict[str, Any]) -> str:
    """Key of the folder that holds the files of `manifest`."""
    return f"{key}/{digest(manifest['files'])[:16]}"


def content_digest(manifest: dict[str, Any]) -> str:
    """sha256 of everything but the summary and the checksum."""
    return digest({name: manifest[name] for name in ("schema_version", "kind", "identity", "files")})


def describe_folder(kind: str, identity: dict[str, Any], folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The manifest of all files below `folder`; raises IntegrityError when there is none, or a link among them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if not paths:
        raise IntegrityError(f"{folder} holds no files: there is nothing to publish as {kind}.")
    files = []
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(f"{path} is a link or special file; artifacts hold regular files only.")
        name = check_key(path.relative_to(folder).as_posix())
        files.append({"name": name, "size": path.stat().st_size, "sha256": file_digest(path)})
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "identity": json.loads(canonical_json(identity)),
        "files": files,
        "summary": json.loads(canonical_json(summary)),
    }
    return {**manifest, "checksum": digest(manifest)}


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """A manifest from its stored bytes; raises IntegrityError saying what is wrong with it."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: the manifest is not JSON ({error}); it was damaged or cut short.") from error
    if isinstance(manifest, dict) and QUARANTINED in manifest:
        raise IntegrityError(
            f"{where}: its stored bytes are damaged and it is quarantined ({manifest[QUARANTINED]}). "
            "Run the stage that makes it again: trigger the campaign that it belongs to."
        )
    check_manifest(manifest, where)
    return manifest


def check_manifest(manifest: Any, where: str) -> None:
    """Raises IntegrityError unless `manifest` is complete, unaltered, and every file name stays in its folder."""
    try:
        if manifest["schema_version"] != SCHEMA_VERSION:
            raise IntegrityError(
                f"{where}: manifest schema {manifest['schema_version']!r}, this code reads {SCHEMA_VERSION}. "
                "It was written by another version of opsd."
            )
        if digest({name: value for name, value in manifest.items() if name != "checksum"}) != manifest["checksum"]:
            raise IntegrityError(f"{where}: the manifest does not match its own checksum; it was damaged or edited.")
        for file in manifest["files"]:
            check_key(file["name"])
            sane = type(file["size"]) is int and file["size"] >= 0 and _SHA256.fullmatch(file["sha256"])
            if not sane or set(file) != {"name", "size", "sha256"}:
                raise IntegrityError(f"{where}: malformed file entry {file!r}.")
        names = [file["name"] for file in manifest["files"]]
        if names != sorted(set(names)) or not names:
            raise IntegrityError(f"{where}: file names are missing, repeated or out of order.")
        if not isinstance(manifest["identity"], dict) or not isinstance(manifest["summary"], dict):
            raise IntegrityError(f"{where}: identity and summary must be objects.")
    except ConfigError as error:
        raise IntegrityError(f"{where}: a file name tries to leave its folder. {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(f"{where}: this is not a manifest of opsd ({type(error).__name__}: {error}).") from error
