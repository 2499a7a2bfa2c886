"""Files that stand elsewhere: s3:// through the pipeline's own store, https:// bounded in size and time, nothing else."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from opsd_core.addresses import bare, holds_secret
from opsd_core.config import ColumnMapping
from opsd_core.config.kinds.sources import FILE_FORMATS, SOURCE_KINDS, file_suffix, known_file
from opsd_core.data.files import open_file
from opsd_core.data.records import Asked, Opened, RawRow
from opsd_core.digest import file_digest
from opsd_core.disk import REASONS, no_temporary_files, temporary_folder
from opsd_core.errors import DataError

MAX_DOWNLOAD_BYTES = 4 << 30
MAX_DOWNLOAD_SECONDS = 1800.0
_SILENCE_SECONDS = 30.0
_PART = 1 << 20
_NO_HEAD = (403, 405, 501)
"""What servers answer that give a file but do not describe one."""


def stored_object(asked: Asked) -> Opened:
    """One s3:// object. DataError without a store, and as `open_file`."""
    source = asked.config.source
    if asked.fetch is None:
        raise DataError(f"data.source={source} needs an object store, and none was given to load_examples (fetch).")
    return open_file(asked.fetch(source), asked, file_suffix(source))


def web_file(asked: Asked) -> Opened:
    """One https:// file, fetched when it is opened and deleted after its rows are read.

    Raises DataError where there is no network, no such file, or more than 4 GiB or half an hour of it.
    """
    source = asked.config.source
    name = _file_name(source)
    kept = ExitStack()  # until the rows are read
    try:
        path = kept.enter_context(temporary_folder()) / f"download{file_suffix(name)}"
        download(source, path)
        opened = open_file(path, asked)
    except BaseException:
        kept.close()
        raise

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        with kept:
            yield from opened.rows(columns)

    return Opened(rows, opened.shape, opened.num_rows)


def _file_name(source: str) -> str:
    """The file's name. DataError for what does not end as a file that is read, and for an address with a secret."""
    if "@" in urlsplit(source).netloc or holds_secret(source):
        raise DataError(
            "data.source holds a password, signature or token, which would stand in every record. Store the file in "
            "s3:// instead."
        )
    name = PurePosixPath(unquote(urlsplit(source).path)).name
    if not known_file(name):
        raise DataError(
            f"data.source={source} does not end as a file that is read ({', '.join(sorted(FILE_FORMATS))})."
        )
    return name


def web_content(url: str) -> dict[str, str]:
    """What its server says of the state of an https:// file: etag, last_modified and bytes, those that it names.

    sha256 of the file where it names neither of the first two. DataError as `web_file`.
    """
    _file_name(url)
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.build_opener(_OnlyHttps).open(request, timeout=_SILENCE_SECONDS) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        if error.code not in _NO_HEAD:
            raise _unreachable(url, error) from error
        headers = {}
    except (OSError, HTTPException, ValueError) as error:
        raise _unreachable(url, error) from error
    names = {"etag": "ETag", "last_modified": "Last-Modified", "bytes": "Content-Length"}
    found = {name: str(headers[header]) for name, header in names.items() if headers.get(header)}
    if found.keys() & {"etag", "last_modified"}:
        return found
    with temporary_folder() as folder:
        download(url, path := folder / "download")
        return {"sha256": file_digest(path)}


def unknown(asked: Asked) -> Opened:
    """DataError: no kind of the table knows this source."""
    examples = ", ".join(kind.example for kind in SOURCE_KINDS.values() if kind.example)
    hint = (
        " Plain http:// can be changed on its way; use https://." if asked.config.source.startswith("http://") else ""
    )
    raise DataError(f"data.source={asked.config.source!r:.200} is of no known kind ({examples}).{hint}")


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it is redirected to {bare(newurl)[:200]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, path: Path, most: int = MAX_DOWNLOAD_BYTES, seconds: float = MAX_DOWNLOAD_SECONDS) -> None:
    """Fetch `url` into `path`. DataError when it cannot be had, whole, within `most` bytes and `seconds`."""
    begin, size = time.monotonic(), 0
    try:
        opener = urllib.request.build_opener(_OnlyHttps)
        with opener.open(url, timeout=_SILENCE_SECONDS) as answer, path.open("wb") as file:
            announced = answer.headers.get("Content-Length")
            while part := answer.read(_PART):
                size += len(part)
                if size > most or time.monotonic() - begin > seconds:
                    raise DataError(
                        f"data.source={url} has more than {most:,} bytes or takes more than {seconds:.0f} s "
                        f"(stopped at {size:,} bytes). Put it into a local folder or s3://."
                    )
                file.write(part)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        if getattr(error, "errno", None) in REASONS:  # of the disk; what the network says has no such number
            raise no_temporary_files(error) from error
        raise _unreachable(url, error) from error
    if announced is not None and announced.isdigit() and int(announced) != size:
        raise DataError(f"data.source={url} ended after {size:,} of {announced} bytes. Try again.")


def _unreachable(url: str, error: Exception) -> DataError:
    why = bare(str(getattr(error, "reason", None) or error))
    return DataError(
        f"data.source={url} cannot be fetched: {why}. Either there is no network here "
        "(then use a local file or s3://), or there is no such file."
    )
