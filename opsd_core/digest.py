"""Identities: canonical JSON, sha256 digests and seeds derived from names.

A digest names content or a recipe for content; equal inputs give equal digests on every machine.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def derive_seed(*names: Any) -> int:
    """A seed in [0, 2**63) that depends on nothing but `names` (numbers and strings)."""
    return int.from_bytes(hashlib.sha256(canonical_json(list(names)).encode()).digest()[:8], "big") >> 1
