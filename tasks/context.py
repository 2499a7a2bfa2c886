"""What every stage needs: the store, the tracker, a scratch folder, loaded policies."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from prefect.logging import get_run_logger
from transformers import PreTrainedTokenizerBase

from opsd_core.config import ModelConfig
from opsd_core.models.packing import packed
from opsd_core.models.policy import Policy, load_policy, load_tokenizer
from opsd_core.records import examples as examples_io
from opsd_core.records import grades, outcomes, rollouts, targets
from opsd_core.records.examples import Example
from opsd_core.training import checkpoint
from tasks.runtime.settings import Settings, load_settings
from tasks.storage.artifacts import Artifact, fetch, find, prune_cache, publish
from tasks.storage.base import local_disk
from tasks.storage.s3 import Store, open_store
from tasks.tracking import Tracker


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The environment, read once per process."""
    return load_settings()


@lru_cache(maxsize=1)
def store() -> Store:
    """The object store that OPSD_STORE names."""
    return open_store(settings().store, settings())


@lru_cache(maxsize=1)
def tracker() -> Tracker:
    """The MLflow server that MLFLOW_TRACKING_URI names."""
    return Tracker(settings(), background=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder on the cache's disk, gone afterwards."""
    with local_disk(settings().cache):
        settings().cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=settings().cache, prefix=".work-") as folder:
        yield Path(folder)


_SCHEMAS = {
    "datasets": examples_io.SCHEMA_VERSION,
    "prompts": examples_io.SCHEMA_VERSION,
    "rollouts": rollouts.SCHEMA_VERSION,
    "grades": grades.SCHEMA_VERSION,
    "targets": targets.SCHEMA_VERSION,
    "states": checkpoint.SCHEMA_VERSION,
    "evaluations": outcomes.SCHEMA_VERSION,
}
"""Part of each identity, so that a file of an older schema is never taken for a finished stage."""


def produce(kind: str, identity: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> tuple[Artifact, float]:
    """The artefact of this identity and the seconds spent on making it: 0 when a finished one was found.

    `make(folder)` writes the files and returns the summary.
    """
    identity = identity | {"schema": _SCHEMAS.get(kind, 1)}
    if found := find(store(), kind, identity):
        get_run_logger().info("%s: %s exists and is reused", kind, found.uri)
        return found, 0.0
    with scratch() as folder:
        started = time.perf_counter()
        with local_disk(folder):
            summary = make(folder)
        seconds = time.perf_counter() - started
        return publish(store(), kind, identity, folder, summary | {"seconds": seconds}, cache=settings().cache), seconds


def tidy_cache() -> int:
    """Prune the local copies to OPSD_CACHE_GB; returns the bytes removed."""
    return prune_cache(settings().cache, int(settings().cache_gb * 1e9))


def local(uri: str) -> Path:
    """A verified local copy of the artefact at `uri`."""
    return fetch(store(), uri, settings().cache)


def load(uri: str, config: ModelConfig, dtype: torch.dtype | None = None) -> Policy:
    """A fresh policy from a stored folder; the caller may change it."""
    return load_policy(local(uri), config, dtype)


@lru_cache(maxsize=2)
def load_shared(uri: str, config_json: str) -> Policy:
    """A policy for sampling and scoring, kept in memory between the stages of an iteration. Never change it."""
    return packed(load(uri, ModelConfig.model_validate_json(config_json)))


def stored_examples(data_uri: str, split: str) -> list[Example]:
    """A split of a stored data set, kept in memory between the stages of an iteration. Never change it."""
    return _examples(local(data_uri) / f"{split}.parquet")


@lru_cache(maxsize=2)
def _examples(path: Path) -> list[Example]:
    return examples_io.read_examples(path)


@lru_cache(maxsize=4)
def tokenizer_of(uri: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a stored policy, kept in memory. Never change it."""
    return load_tokenizer(local(uri))
