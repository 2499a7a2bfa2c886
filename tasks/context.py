"""What every stage needs: the store, the tracker, a scratch folder, finished artifacts; no model (`tasks.loaded`)."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from opsd_core.judgement.verdict import Verdict
from tasks.refs import Ref
from tasks.runtime.folders import local_disk, make_folder
from tasks.runtime.peak_memory import measured_peak
from tasks.runtime.settings import Settings, load_settings
from tasks.storage.apart import whole_folder
from tasks.storage.artifacts import Artifact, find, prune_cache, publish
from tasks.storage.manifest import artifact_key
from tasks.storage.process_mark import process_tag
from tasks.storage.s3 import Store, open_store

if TYPE_CHECKING:
    from tasks.tracking import Tracker


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The environment, read once per process."""
    return load_settings()


def renew() -> None:
    """Forget settings that the environment no longer says, with the store and the tracker that they opened."""
    if settings.cache_info().currsize and settings() != load_settings():
        for kept in (settings, store, tracker):
            kept.cache_clear()


@lru_cache(maxsize=1)
def store() -> Store:
    """The object store that OPSD_STORE names."""
    return open_store(settings().store, settings())


@lru_cache(maxsize=1)
def tracker() -> "Tracker":
    """The MLflow server that MLFLOW_TRACKING_URI names."""
    from tasks.tracking import Tracker  # loads MLflow, which costs seconds and memory

    return Tracker(settings(), background=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder on the cache's disk, gone afterwards."""
    make_folder(settings().cache)
    with TemporaryDirectory(dir=settings().cache, prefix=f".work-{process_tag()}") as folder:
        yield Path(folder)


_SCHEMAS = {
    "datasets": "opsd_core.records.examples",
    "prompts": "opsd_core.records.examples",
    "refills": "opsd_core.records.examples",
    "rollouts": "opsd_core.records.rollouts",
    "grades": "opsd_core.records.grades",
    "targets": "opsd_core.records.targets",
    "states": "opsd_core.training.checkpoint",
    "evaluations": "opsd_core.records.outcomes",
}
"""Whose SCHEMA_VERSION is part of each identity, so that a file of an older schema is never taken for a finished stage."""


def produce(kind: str, identity: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> tuple[Artifact, float]:
    """The artifact of this identity and the seconds spent on making it: 0 when a finished one was found.

    `make(folder)` writes the files and returns the summary.
    """
    identity = _whole(kind, identity)
    if found := find(store(), kind, identity):
        _logger().info("%s: %s exists and is reused", kind, found.uri)
        return found, 0.0
    with scratch() as folder:
        started = time.perf_counter()
        with local_disk(folder), measured_peak() as peak:
            summary = make(folder)
        seconds = time.perf_counter() - started
        summary |= {"seconds": seconds, "peak_bytes": peak.bytes}
        return publish(store(), kind, identity, folder, summary, cache=settings().cache), seconds


def finished(kind: str, identity: dict[str, Any]) -> Artifact | None:
    """The artifact of this identity, where it was made before."""
    return find(store(), kind, _whole(kind, identity))


def address_of(kind: str, identity: dict[str, Any]) -> str:
    """Where the artifact of this identity is, whether it exists or not; its files lie in a folder below."""
    return store().uri(artifact_key(kind, _whole(kind, identity)))


def _whole(kind: str, identity: dict[str, Any]) -> dict[str, Any]:
    return identity | {"schema": import_module(_SCHEMAS[kind]).SCHEMA_VERSION if kind in _SCHEMAS else 1}


def _logger() -> logging.Logger | logging.LoggerAdapter:
    """The run's log; a plain one where no run asks, as from a shell."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)


def tidy_cache() -> int:
    """Prune the local copies to OPSD_CACHE_GB; returns the bytes removed."""
    return prune_cache(settings().cache, int(settings().cache_gb * 1e9))


def local(ref: Ref | str) -> Path:
    """A verified local copy of the artifact at `ref`, or at this address; of a model always the whole folder."""
    return whole_folder(store(), ref if isinstance(ref, str) else ref.uri, settings().cache)


def stored_verdict(uri: str) -> Verdict:
    """The gate's verdict as it was stored."""
    return Verdict.from_dict(json.loads((local(uri) / "verdict.json").read_text()))


def lineage(tags: Mapping[str, str]) -> dict[str, Any]:
    """What a registered version was made of, by name: `rollouts`, `targets` (lists), `grades`, `data`, `evaluation`, ...

    It is in the stored file that the tag opsd.lineage names; versions registered before that have it all in tags.
    """
    known: dict[str, Any] = {tag.removeprefix("opsd."): text for tag, text in tags.items() if tag.startswith("opsd.")}
    for name in _LISTS & known.keys():
        known[name] = json.loads(known[name])
    if uri := tags.get("opsd.lineage"):
        known |= json.loads((local(uri) / "lineage.json").read_text())
    return known


_LISTS = {"rollouts", "rollout_digests", "targets", "teachers"}
"""Entries of the lineage that are lists; as tags they are JSON."""
