"""What an S3 server or its client library answers instead of doing what was asked, in words.

    named_errors()    every error of the client library as one of ours: server, object, likely cause, what to change
    lacking()         the right that the key lacks, where that is the cause

A key may be allowed to read and not to write, to write and not to list: each right is named as servers name it in policies.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError as BrokenStream

from opsd_core.errors import OpsdError, RefusedError, ServiceError
from tasks.runtime.settings import Settings, public_url

ABSENT = {"404", "NoSuchKey", "NotFound"}
CHANGED = {"412", "PreconditionFailed"}
DAMAGED = {"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentChecksumMismatch"}
# The last one comes from the body of an error answer, which botocore reads unguarded.
TORN = (FlexibleChecksumError, IncompleteReadError, ResponseStreamingError, BrokenStream)
_MALFORMED = {"InvalidBucketName", "ParamValidationError", "KeyTooLongError", "InvalidURI"}
_UNKNOWN = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidToken"}
_RIGHTS = {
    "HeadBucket": "list objects (s3:ListBucket)",
    "ListObjectsV2": "list objects (s3:ListBucket)",
    "GetObject": "read objects (s3:GetObject)",
    "HeadObject": "read objects (s3:GetObject)",
    "DeleteObject": "delete objects (s3:DeleteObject)",
    "CreateBucket": "create a bucket (s3:CreateBucket)",
}
_WRITE = "write objects (s3:PutObject)"


def code_of(error: ClientError) -> str:
    """What the server calls it, such as NoSuchKey; empty where it says nothing."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_forbidden(error: ClientError) -> bool:
    """Whether the server knows no such credentials, or forbids them what was asked. Asking again is no use."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in (401, 403) or code_of(error) in _UNKNOWN


def lacking(error: ServiceError) -> str | None:
    """The right that the credentials lack, such as `read objects (s3:GetObject)`; None when the error has another cause."""
    cause = _client_error(error.__cause__)
    return _right(cause) if cause is not None and is_forbidden(cause) else None


@contextmanager
def named_errors(settings: Settings, root: str, key: str) -> Iterator[None]:
    """Turn the client library's errors into ours, saying which server, object and likely cause. `root`: the store's address.

    ServiceError for outages and full disks, RefusedError for what asking again cannot change.
    """
    place = f"The object store at {public_url(settings.s3_endpoint or 'https://s3.amazonaws.com')}"
    target = f"{root}/{key}"
    try:
        yield
    except OpsdError:
        raise
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise ServiceError(
            f"{place} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run from the folder "
            "whose stack is up (OPSD_HOME)."
        ) from error
    except TORN as error:
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
        kind, why = _explained(error, settings, root)
        cause = _client_error(error)
        code = code_of(cause) if cause is not None else type(error).__name__
        raise kind(f"{place} {why}. Object {target}; it answered {code}: {settings.redact(str(error))}") from error


def _explained(error: Exception, settings: Settings, root: str) -> tuple[type[ServiceError], str]:
    """The error's class, and what is wrong and to be changed."""
    cause, bucket = _client_error(error), root.removeprefix("s3://").partition("/")[0]
    code = code_of(cause) if cause is not None else type(error).__name__
    if cause is not None and is_forbidden(cause):
        return RefusedError, _forbidden(cause, bucket, "" if root != settings.store.rstrip("/") else " (OPSD_STORE)")
    if code == "NoSuchBucket":
        return RefusedError, f"has no bucket {bucket!r}: create it (make up does) or correct OPSD_STORE"
    if code in _MALFORMED:
        return RefusedError, f"takes {bucket!r} for no bucket's name, or the object's for none: correct the address"
    if code in DAMAGED:
        return ServiceError, "receives other bytes than are sent: the network or a proxy damages them, nothing was stored"
    return ServiceError, "failed after bounded retries: see its log (full disk, restart, overload)"


def _forbidden(error: ClientError, bucket: str, setting: str) -> str:
    credentials = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if code_of(error) in _UNKNOWN:
        return f"refuses the credentials: check {credentials}, and AWS_SESSION_TOKEN where there is one"
    if error.operation_name == "CreateBucket":
        return (
            f"has no bucket {bucket!r}{setting}, and the key of AWS_ACCESS_KEY_ID may not {_right(error)}. Create it, correct "
            "OPSD_STORE, or give the key that right"
        )
    return (
        f"refuses the credentials: the key of AWS_ACCESS_KEY_ID may not {_right(error)} in bucket {bucket!r}{setting}, or "
        f"{credentials} are wrong. Give the key that right, or name another bucket"
    )


def _right(error: ClientError) -> str:
    return _RIGHTS.get(error.operation_name, _WRITE)


def _client_error(error: BaseException | None) -> ClientError | None:
    """The server's answer behind an error of the client library or of its transfers."""
    while error is not None and not isinstance(error, ClientError):
        error = error.__cause__ or error.__context__
    return error
