"""Objects as files below one folder: the same promises as S3, for one machine or a shared POSIX file system."""

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.runtime.folders import local_disk
from tasks.storage.base import ObjectInfo, Store, check_key, missing, too_long

_STAGING = ".staging"  # half-written files and the lock; on the same file system, so that renames are atomic


class FileStore(Store):
    """Files under `folder`; writes go to a staging file, are flushed to disk and appear by rename or hard link."""

    def __init__(self, root: str, folder: Path) -> None:
        self.root, self.folder = root, folder

    def put(self, key: str, data: bytes | Path) -> None:
        target = self._path(key)
        with local_disk(target), self._staged(data) as staged:
            self._into_place(staged, target, os.replace)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        with local_disk(target), self._staged(data) as staged:
            try:
                self._into_place(staged, target, os.link)
            except FileExistsError:
                return False
        return True

    def put_if_match(self, key: str, data: bytes, etag: str) -> bool:
        with self._locked():
            current = self.head(key)
            if current is None or current.etag != etag:
                return False
            self.put(key, data)
        return True

    def read(self, key: str, max_bytes: int | None = None) -> tuple[bytes, str] | None:
        try:
            with self._path(key).open("rb") as file:
                status = os.fstat(file.fileno())
                if max_bytes is not None and status.st_size > max_bytes:
                    raise too_long(self.uri(key), status.st_size, max_bytes)
                return file.read(), _etag(status)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def download(self, key: str, path: Path) -> None:
        with local_disk(path):
            try:
                shutil.copyfile(self._path(key), path)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                if path.parent.is_dir():
                    raise missing(self.uri(key)) from None
                raise

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return ObjectInfo(key, status.st_size, _etag(status), status.st_mtime) if path.is_file() else None

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        parent = prefix.rpartition("/")[0]
        start = self._path(parent) if parent else self.folder
        found = []
        for folder, folders, names in os.walk(start):
            if Path(folder) == self.folder and _STAGING in folders:
                folders.remove(_STAGING)
            for name in names:
                key = Path(folder, name).relative_to(self.folder).as_posix()
                info = self.head(key) if key.startswith(prefix) else None
                if info is not None:
                    found.append(info)
        return sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        for parent in path.relative_to(self.folder).parents[:-1]:
            try:
                (self.folder / parent).rmdir()
            except OSError:  # not empty, or already gone
                return

    def ensure_bucket(self) -> None:
        with local_disk(self.folder):
            (self.folder / _STAGING).mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / check_key(key)

    @contextmanager
    def _staged(self, data: bytes | Path) -> Iterator[Path]:
        """A flushed file with `data` in the staging folder, removed afterwards."""
        self.ensure_bucket()
        staged = self.folder / _STAGING / uuid.uuid4().hex
        try:
            with staged.open("xb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    def _into_place(self, staged: Path, target: Path, move: Callable[[Path, Path], None]) -> None:
        for _ in range(10):  # a concurrent delete may remove the folder just made
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                move(staged, target)
                break
            except FileNotFoundError:
                continue
        else:
            raise missing(self.uri(target.parent.relative_to(self.folder).as_posix()))
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.ensure_bucket()
        with (self.folder / _STAGING / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _etag(status: os.stat_result) -> str:
    # Every write makes a new inode, so the three together change with every write.
    mark = f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"
    return hashlib.sha256(mark.encode()).hexdigest()[:32]
