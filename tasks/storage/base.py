"""What every object store does, whatever keeps the bytes; keys that cannot escape their prefix."""

import os
import uuid
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from opsd_core.errors import ConfigError, IntegrityError, ServiceError
from tasks.storage.lease import Lease, hold_lease

_MAX_KEY_BYTES = 900  # S3 allows 1024 including the store's own prefix
_MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class ObjectInfo:
    """Key, length in bytes, a tag that changes whenever the object does, and when it last did."""

    key: str
    size: int
    etag: str
    modified: float
    """Seconds since 1970, by the store's clock."""


def check_key(key: str) -> str:
    """`key` itself when it is a plain relative path.

    Raises ConfigError for an absolute or overlong key, an empty, `.` or `..` part, a backslash or a control character.
    """
    parts = key.split("/")
    bad = (
        any(part in ("", ".", "..") or len(part.encode()) > _MAX_NAME_BYTES for part in parts)
        or "\\" in key
        or not key.isprintable()
        or len(key.encode()) > _MAX_KEY_BYTES
    )
    if bad:
        raise ConfigError(
            f"{key[:200]!r} cannot name a stored object: a key is a relative path of at most {_MAX_KEY_BYTES} bytes "
            "without empty, '.' or '..' parts, backslashes or control characters. Rename the file, model or campaign."
        )
    return key


class Store(ABC):
    """Objects under one root; keys are relative to it. Open one with `tasks.storage.s3.open_store`."""

    root: str
    """`s3://bucket[/prefix]` or `file:///folder`, without a trailing slash."""

    def uri(self, key: str) -> str:
        """Full address of `key`."""
        return f"{self.root}/{check_key(key)}"

    def key_of(self, uri: str) -> str:
        """Key of an address below this root; raises ConfigError for any other address."""
        if not uri.startswith(self.root + "/"):
            raise ConfigError(f"{uri} does not lie in the store {self.root}; set OPSD_STORE to the store it is in.")
        return check_key(uri[len(self.root) + 1 :])

    def get(self, key: str) -> bytes:
        """The object's bytes; raises IntegrityError when there is no such object."""
        found = self.read(key)
        if found is None:
            raise missing(self.uri(key))
        return found[0]

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.head(key) is not None

    def lease(
        self, key: str, ttl_s: float = 60.0, *, wait_s: float = 0.0, holder: str = ""
    ) -> AbstractContextManager[Lease]:
        """Hold `key` exclusively inside the `with` block, renewed in the background (`tasks.storage.lease.hold_lease`)."""
        return hold_lease(self, key, ttl_s, wait_s=wait_s, holder=holder)

    def probe(self) -> None:
        """Put, get, list and delete one small object for real; raises ServiceError saying what is wrong or not allowed."""
        key, data = f"probe/{uuid.uuid4().hex}", os.urandom(16)
        self.put(key, data)
        try:
            returned, listed = self.read(key), self.list(key)
        except ServiceError:
            with suppress(ServiceError):
                self.delete(key)
            raise
        self.delete(key)
        if returned is None or returned[0] != data or [info.key for info in listed] != [key]:
            raise ServiceError(f"{self.root} did not give back the bytes just written to it.")

    @abstractmethod
    def put(self, key: str, data: bytes | Path) -> None:
        """Write or replace an object whole; nobody ever sees a part of it."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write unless the object exists; of several writers exactly one gets True."""

    @abstractmethod
    def put_if_match(self, key: str, data: bytes, etag: str) -> bool:
        """Replace the object only if it is still the one with `etag` (compare and swap)."""

    @abstractmethod
    def read(self, key: str, max_bytes: int | None = None) -> tuple[bytes, str] | None:
        """(bytes, etag), or None when absent; raises IntegrityError when longer than `max_bytes`."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copy an object into a new local file; raises IntegrityError when there is no such object."""

    @abstractmethod
    def head(self, key: str) -> ObjectInfo | None:
        """Size and tag without the bytes; None when absent."""

    @abstractmethod
    def list(self, prefix: str = "") -> "list[ObjectInfo]":
        """Every object whose key starts with `prefix`, sorted by key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; absent is fine."""

    @abstractmethod
    def ensure_bucket(self) -> None:
        """Create the bucket or folder if it is absent."""


def missing(uri: str) -> IntegrityError:
    """The error for an object that should be there."""
    return IntegrityError(
        f"{uri} does not exist. It was deleted (retention, another user), never finished, or OPSD_STORE points to "
        "another store. Run the stage that makes it again."
    )


def too_long(uri: str, size: int, max_bytes: int) -> IntegrityError:
    """The error for an object longer than its reader accepts."""
    return IntegrityError(f"{uri} has {size} bytes; at most {max_bytes} are accepted. It was not written by opsd.")
