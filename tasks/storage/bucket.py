"""A store in a bucket of any server that speaks S3 and honours `If-None-Match: *` and `If-Match` on PUT (AWS, SeaweedFS, ...).

Retries and timeouts are bounded by botocore's standard mode; what remains becomes a ServiceError that names endpoint,
bucket and likely cause; a body that arrives torn or altered is asked for again.
"""

import os
import time
import zlib
from base64 import b64encode
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from tasks.runtime.folders import local_disk
from tasks.runtime.settings import Settings
from tasks.storage.base import ObjectInfo, Store, check_key, missing, too_long
from tasks.storage.s3_errors import ABSENT, CHANGED, DAMAGED, TORN, code_of, is_forbidden, named_errors

_ATTEMPTS = 6
_CONNECT_TIMEOUT_S = 5
_START_ATTEMPTS, _START_TIMEOUT_S = 4, 10.0
"""At a campaign's start, where a store that does not answer is said within a minute; in its middle it is waited for."""
_MULTIPART_BYTES = 32 << 20
_TRANSFER = TransferConfig(multipart_threshold=_MULTIPART_BYTES, multipart_chunksize=16 << 20, max_concurrency=4)
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
                if code_of(error) in ABSENT:
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
                if code_of(error) in ABSENT:
                    raise missing(self.uri(key)) from error
                raise

    def head(self, key: str) -> ObjectInfo | None:
        with self._naming(key):
            try:
                answer = self._client.head_object(**self._at(key))
            except ClientError as error:
                if code_of(error) in ABSENT:
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
        client = _client(self.settings.hurried(_START_TIMEOUT_S), _START_ATTEMPTS, os.getpid())
        with self._naming(""):
            try:
                client.head_bucket(Bucket=self.bucket)
                return
            except ClientError as error:
                if is_forbidden(error):
                    return  # a key may do all that is needed and not this; `probe` says what it may not
                if code_of(error) not in ABSENT | {"NoSuchBucket"}:
                    raise
            region = self.settings.s3_region
            place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            try:
                client.create_bucket(Bucket=self.bucket, **place)
            except ClientError as error:
                if code_of(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                    raise

    def probe(self) -> None:
        """As every store's, failing fast: two attempts of ten seconds at most."""
        fast = S3Store(self.root, self.bucket, self.prefix, self.settings.hurried(_START_TIMEOUT_S), attempts=2)
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
                if code_of(error) not in DAMAGED or number + 1 == _ATTEMPTS:
                    raise
                time.sleep(0.1 * 2**number)

    def _put_if(self, key: str, data: bytes, **condition: str) -> bool:
        with self._naming(key):
            for attempt in range(_ATTEMPTS):
                try:
                    self._write(key, data, **condition)
                    return True
                except ClientError as error:
                    code = code_of(error)
                    if code == "ConditionalRequestConflict" and attempt + 1 < _ATTEMPTS:
                        time.sleep(0.1 * 2**attempt)
                        continue
                    if code in ABSENT and "IfMatch" in condition:
                        return False
                    if code not in CHANGED:
                        raise
                    # After a lost answer the retry meets our own first attempt: then the bytes there are ours.
                    tried_before = attempt > 0 or error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    current = self.read(key) if tried_before else None
                    return current is not None and current[0] == data
        return False

    def _naming(self, key: str) -> AbstractContextManager[None]:
        return named_errors(self.settings, self.root, key)


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


def _read_again_when_torn(attempt: Callable[[], _T], attempts: int = 4) -> _T:
    """botocore retries requests, not bodies: read a body that broke off or failed its checksum again, a few times."""
    for number in range(attempts):
        try:
            return attempt()
        except (*TORN, ReadTimeoutError):
            if number + 1 == attempts:
                raise
            time.sleep(0.2 * 2**number)
    raise AssertionError("unreachable")
