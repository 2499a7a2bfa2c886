"""A stored artifact whose bytes are wrong is marked, so that nobody finds it and the stage that makes it runs again.

    <kind>/<identity digest>/MANIFEST.json           replaced by a record of the damage, which no reader accepts
    quarantine/<kind>/<identity digest>/<…>.json     the same record, kept for good: their number is the count

No object is deleted. The next run of the stage publishes the same files over the damaged ones and a manifest over the mark.
"""

import json
import logging
from typing import Any

from opsd_core.digest import canonical_json
from opsd_core.errors import IntegrityError
from tasks.storage.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    QUARANTINED,
    Artifact,
    content_digest,
    parse_manifest,
)
from tasks.storage.s3 import Store

PREFIX = "quarantine"
_LOG = logging.getLogger(__name__)


def quarantine(store: Store, artifact: Artifact, file: dict[str, Any], actual: str) -> bool:
    """Mark `artifact` as damaged in `file` (its manifest entry); False when its manifest has already been replaced."""
    name = f"{artifact.key}/{MANIFEST_NAME}"
    found = store.read(name, MAX_MANIFEST_BYTES)
    try:
        standing = None if found is None else parse_manifest(found[0], artifact.uri)
    except IntegrityError:
        return False
    if standing is None or content_digest(standing) != artifact.digest:
        return False
    record = {
        QUARANTINED: f"object {file['name']}: expected {file['size']} bytes with sha256 {file['sha256']}, actual {actual}",
        "uri": artifact.uri,
        "manifest": standing,
    }
    data = canonical_json(record).encode()
    marked = store.put_if_match(name, data, found[1])
    if marked:
        store.put_if_absent(f"{PREFIX}/{artifact.uri[len(store.root) + 1 :]}/{actual[:16]}.json", data)
        _LOG.error(
            "%s is quarantined: %s. %d artifacts were so far (%s/%s). Run the stage that makes it again.",
            artifact.uri, record[QUARANTINED], len(store.list(PREFIX + "/")), store.root, PREFIX,
        )  # fmt: skip
    return marked


def quarantined(store: Store) -> list[dict[str, Any]]:
    """Every record of damage so far, sorted by key."""
    return [json.loads(store.get(info.key)) for info in store.list(PREFIX + "/")]
