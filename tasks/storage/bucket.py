"""A store in a bucket of any server that speaks S3 and honours `If-None-Match: *` and `If-Match` on PUT (AWS, SeaweedFS, ...).

Retries and timeouts are bounded by botocore's standard mode; what remains becomes a ServiceError that names endpoint,
bucket and likely cause; a body that arrives torn or altered is asked for again.
"""

import os
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError as BrokenStream

from opsd_core.errors import OpsdError, RefusedError, ServiceError
from tasks.runtime.folders import local_disk
from tasks.runtime.settings import Settings, public_url
from tasks.storage.base import ObjectInfo, Store, check_key, missing, too_long

_ATTEMPTS = 6
_CONNECT_TIMEOUT_S = 5
_MULTIPART_BYTES = 32 << 20
_TRANSFER = TransferConfig(multipart_threshold=_MULTIPART_BYTES, multipart_chunksize=16 << 20, max_concurrency=4)
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_CHANGED = {"412", "PreconditionFailed"}
_MALFORMED = {"InvalidBucketName", "ParamValidationError", "KeyTooLongError", "InvalidURI"}
_DAMAGED = {"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentChecksumMismatch"}
_REFUSED = {"403", "401", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"}
# The last one comes from the body of an error answer, which botocore reads unguarded.
_TORN = (FlexibleChecksumError, IncompleteReadError, ResponseStreamingError, BrokenStream)
_T = TypeVar("_T")


class S3Store(Store):
    """Objects in one bucket below `prefix` (empty, or ending in a slash); safe to share between threads."""

    def __init__(self, root: str, bucket: str, prefix: str, settings: Settings, attempts: int = _ATTEMPTS) -> None:
        self.root, self.bucket, self.prefix, self.settings = root, bucket, prefix, settings
        self._client = _client(settings, attempts, os.getpid())

    def put(self, key: str, data: bytes | Path) -> None:
        with self._naming(key):
            if isinstance(data, Path) and data.stat().st_size >= _MULTIPART_BYTES:
                extra = {"ChecksumAlgorithm": "CRC32"}
                self._client.upload_file(str(data), self.bucket, self._name(key), ExtraArgs=extra, Config=_TRANSFER)
            else:
                self._write(key, data if isinstance(data, bytes) else data.read_bytes())

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put_if(key, data, IfNoneMatch="*")

    def put_if_match(self, key: str, data: bytes, etag: str) -> bool:
        return self._put_if(key, data, IfMatch=etag)

    def read(self, key: str, max_bytes: int | None = None) -> tuple[bytes, str] | None:
        def attempt() -> tuple[bytes, str] | None:
            try:
                answer = self._client.get_object(**self._at(key), ChecksumMode="ENABLED")
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
            with closing(answer["Body"]) as body:  # `with body` would give the stream below the checks of length and CRC
                if max_bytes is not None and answer["ContentLength"] > max_bytes:
                    raise too_long(self.uri(key), answer["ContentLength"], max_bytes)
                return body.read(), answer["ETag"]

        with self._naming(key):
            return _read_again_when_torn(attempt)

    def download(self, key: str, path: Path) -> None:
        def attempt() -> None:
            self._client.download_file(self.bucket, self._name(key), str(path), Config=_TRANSFER)

        with self._naming(key), local_disk(path):
            try:
                _read_again_when_torn(attempt)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    raise missing(self.uri(key)) from error
                raise

    def head(self, key: str) -> ObjectInfo | None:
        with self._naming(key):
            try:
                answer = self._client.head_object(**self._at(key))
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"], answer["LastModified"].timestamp())

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        found = []
        with self._naming(prefix):
            # Pages follow the continuation token; servers differ in their order, so the keys are sorted here.
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for entry in page.get("Contents", ()):
                    key = entry["Key"][len(self.prefix) :]
                    changed = entry["LastModified"].timestamp()
                    found.append(ObjectInfo(key, entry["Size"], entry["ETag"], changed))
        return sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        with self._naming(key):
            self._client.delete_object(**self._at(key))

    def ensure_bucket(self) -> None:
        with self._naming(""):
            try:
                self._client.head_bucket(Bucket=self.bucket)
                return
            except ClientError as error:
                if _code(error) not in _ABSENT | {"NoSuchBucket"}:
                    raise
            region = self.settings.s3_region
            place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            try:
                self._client.create_bucket(Bucket=self.bucket, **place)
            except ClientError as error:
                if _code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                    raise

    def probe(self) -> None:
        """Put, get and delete one small object, failing fast (two attempts); raises ServiceError naming the cause."""
        fast = S3Store(self.root, self.bucket, self.prefix, self.settings, attempts=2)
        super(S3Store, fast).probe()

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._name(key)}

    def _write(self, key: str, body: bytes, **condition: str) -> None:
        """PUT with the body's CRC32, which the server compares with what arrived; sent again when it differs."""
        checksum = b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
        for number in range(_ATTEMPTS):
            try:
                self._client.put_object(**self._at(key), Body=body, ChecksumCRC32=checksum, **condition)
                return
            except ClientError as error:
                if _code(error) not in _DAMAGED or number + 1 == _ATTEMPTS:
                    raise
                time.sleep(0.1 * 2**number)

    def _put_if(self, key: str, data: bytes, **condition: str) -> bool:
        with self._naming(key):
            for attempt in range(_ATTEMPTS):
                try:
                    self._write(key, data, **condition)
                    return True
                except ClientError as error:
                    code = _code(error)
                    if code == "ConditionalRequestConflict" and attempt + 1 < _ATTEMPTS:
                        time.sleep(0.1 * 2**attempt)
                        continue
                    if code in _ABSENT and "IfMatch" in condition:
                        return False
                    if code not in _CHANGED:
                        raise
                    # After a lost answer the retry meets our own first attempt: then the bytes there are ours.
                    tried_before = attempt > 0 or error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    current = self.read(key) if tried_before else None
                    return current is not None and current[0] == data
        return False

    @contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """Turn the client library's errors into ours, saying which server, bucket, object and likely cause."""
        place = f"The object store at {public_url(self.settings.s3_endpoint or 'https://s3.amazonaws.com')}"
        target = f"{self.root}/{key}"
        try:
            yield
        except OpsdError:
            raise
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ServiceError(
                f"{place} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run from the folder "
                "whose stack is up (OPSD_HOME)."
            ) from error
        except _TORN as error:
            raise ServiceError(
                f"{place} sent {target} torn or altered several times ({error}). The network or a proxy damages it; "
                "nothing of it was used."
            ) from error
        except (HTTPClientError, BotoConnectionError) as error:
            raise ServiceError(
                f"{place} does not answer ({type(error).__name__} on {target}). "
                "Is it running (make status), and is AWS_ENDPOINT_URL_S3 right?"
            ) from error
        except (ClientError, Boto3Error, BotoCoreError, ResponseParserError) as error:
            raise self._explain(error, place, target) from error

    def _explain(self, error: Exception, place: str, target: str) -> ServiceError:
        cause = error if isinstance(error, ClientError) else error.__context__ or error.__cause__
        code = _code(cause) if isinstance(cause, ClientError) else type(error).__name__
        kind: type[ServiceError] = ServiceError
        detail = self.settings.redact(str(error))
        if code in _REFUSED:
            why = "refuses the credentials: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
        elif code == "NoSuchBucket":
            why = f"has no bucket {self.bucket!r}: create it (make up does) or correct OPSD_STORE"
            kind = RefusedError
        elif code in _MALFORMED:
            why, kind = f"takes {self.bucket!r} for no bucket's name, or the object's for none: correct the address", RefusedError
        elif code in _DAMAGED:
            why = "receives other bytes than are sent: the network or a proxy damages them, nothing was stored"
        else:
            why = "failed after bounded retries: see its log (full disk, restart, overload)"
        return kind(f"{place} {why}. Object {target}; it answered {code}: {detail}")


def denied(error: ServiceError) -> bool:
    """Whether the server refused the credentials for what was asked."""
    return isinstance(error.__cause__, ClientError) and _code(error.__cause__) in _REFUSED


@lru_cache(maxsize=8)
def _client(settings: Settings, attempts: int, _pid: int) -> Any:
    """One client per server and process: making one costs half a second, connections do not survive a fork."""
    key, secret = settings.s3_access_key, settings.s3_secret_key
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=key.get_secret_value() if key else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=settings.s3_timeout_s,
            max_pool_connections=16,
            signature_version="s3v4",
            s3={"addressing_style": "path" if settings.s3_endpoint else "auto"},
        ),
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _read_again_when_torn(attempt: Callable[[], _T], attempts: int = 4) -> _T:
    """botocore retries requests, not bodies: read a body that broke off or failed its checksum again, a few times."""
    for number in range(attempts):
        try:
            return attempt()
        except (*_TORN, ReadTimeoutError):
            if number + 1 == attempts:
                raise
            time.sleep(0.2 * 2**number)
    raise AssertionError("unreachable")
