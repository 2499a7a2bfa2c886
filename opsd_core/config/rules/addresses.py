"""Rules of addresses: what can be no model and no data is refused by its field before anything is asked for it."""

import re
from collections.abc import Callable, Iterator

from opsd_core.addresses import holds_secret
from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.refusals import shown
from opsd_core.config.teacher import MOVING

_VERSION = re.compile(r"models:/[^/@]+(?:@[^/@]+|/[1-9][0-9]{0,8})")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_MAX_CHARS, _MAX_KEY_BYTES = 4096, 900
_EXAMPLE = "models:/name@champion or models:/name/3"


def _models_can_exist(config: CampaignSettings) -> str | None:
    named = [("model.source", config.model.source)]
    teacher = config.teacher
    named += [(field, source) for field, source in teacher.named_sources.items() if source]  # an empty one has a rule of its own
    named += [(f"teacher.peers[{number}]", peer) for number, peer in enumerate(teacher.peers)]
    return next((reason for field, source in named if (reason := model_address(field, source))), None)


def _data_can_exist(config: CampaignSettings) -> str | None:
    named = [("data.source", config.data.source)]
    named += [(f"rehearsal.data[{number}].source", data.source) for number, data in enumerate(config.rehearsal.data)]
    named += [(f"{guard.field}.data.source", guard.data.source) for guard in config.promotion.guards]
    return next((reason for field, source in named if (reason := _data_address(field, source))), None)


def model_address(field: str, source: str) -> str | None:
    """Why `source` can be no model; None when it can. `field` is the setting's path."""
    if reason := _text(field, source):
        return reason
    moving = field != "model.source" and source.startswith(MOVING)
    version = f"models:/{source.removeprefix(MOVING)}" if moving else source
    if version.startswith("models:") and not _VERSION.fullmatch(version):
        example = f"{_EXAMPLE}{', or opsd:name@champion' if field != 'model.source' else ''}"
        return f"{field}={shown(source)} is no address of a registered model. Write {example}."
    return _object(field, source, "s3://bucket/folder, the folder with config.json and model.safetensors", False)


def _data_address(field: str, source: str) -> str | None:
    return _text(field, source) or _object(field, source, "s3://bucket/folder/file.jsonl, the address of one object", True)


def _text(field: str, source: str) -> str | None:
    if holds_secret(source):
        return f"{field}={shown(source)} holds a password, signature or token, which would stand in every record."
    if not source.strip():
        return f"{field}={shown(source)} is empty. Name what is to be used; docs/configuration.md says how."
    if len(source) > _MAX_CHARS or not source.isprintable():
        rule = f"at most {_MAX_CHARS} characters, no line breaks, no control characters"
        return f"{field}={shown(source)} is no address: {rule}."
    return None


def _object(field: str, source: str, example: str, one: bool) -> str | None:
    """Why an s3:// address names no object, or no folder of them."""
    if not source.lower().startswith("s3:"):
        return None
    bucket, slash, key = source.removeprefix("s3://").partition("/")
    parts = key.rstrip("/").split("/") if key.rstrip("/") else []
    wrong = next(_faults(source, bucket, parts), None)
    if wrong is None and one and (not slash or not key or key.endswith("/")):
        wrong = "names no object in the bucket"
    return f"{field}={shown(source)} {wrong}. Write {example}." if wrong else None


def _faults(source: str, bucket: str, parts: list[str]) -> Iterator[str]:
    if not source.startswith("s3://"):
        yield "does not begin with s3://"
    if not bucket:
        yield "has no bucket's name"
    elif not _BUCKET.fullmatch(bucket):
        yield f"has {shown(bucket)} where a bucket's name is expected (3 to 63 letters, digits, dots and hyphens)"
    if any(part in ("", ".", "..") or "\\" in part for part in parts) or len("/".join(parts).encode()) > _MAX_KEY_BYTES:
        yield f"has an empty, '.' or '..' part, a backslash, or more than {_MAX_KEY_BYTES} bytes"


ADDRESS_RULES: tuple[Callable[[CampaignSettings], str | None], ...] = (_models_can_exist, _data_can_exist)
"""Each gives the reason of a refusal, or None."""
