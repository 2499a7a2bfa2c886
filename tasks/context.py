"""What every stage needs: the store, the tracker, a scratch folder, loaded policies."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from transformers import PreTrainedTokenizerBase

from opsd_core.acceptance import Acceptance, with_paths
from opsd_core.config import CampaignConfig, ModelConfig
from opsd_core.judgement.verdict import Verdict
from opsd_core.models.packing import packed
from opsd_core.models.policy import Policy, load_policy, load_tokenizer
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records import examples, grades, outcomes, rollouts, targets
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import Rollout, read_rollouts
from opsd_core.training import checkpoint
from tasks.refs import PolicyRef, Ref
from tasks.runtime.folders import local_disk, make_folder
from tasks.runtime.peak_memory import measured_peak
from tasks.runtime.settings import Settings, load_settings
from tasks.storage.artifacts import Artifact, fetch, find, prune_cache, publish
from tasks.storage.manifest import artifact_key
from tasks.storage.process_mark import process_tag
from tasks.storage.s3 import Store, open_store
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
def tracker() -> Tracker:
    """The MLflow server that MLFLOW_TRACKING_URI names."""
    return Tracker(settings(), background=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder on the cache's disk, gone afterwards."""
    make_folder(settings().cache)
    with TemporaryDirectory(dir=settings().cache, prefix=f".work-{process_tag()}") as folder:
        yield Path(folder)


_SCHEMAS = {
    "datasets": examples.SCHEMA_VERSION,
    "prompts": examples.SCHEMA_VERSION,
    "rollouts": rollouts.SCHEMA_VERSION,
    "grades": grades.SCHEMA_VERSION,
    "targets": targets.SCHEMA_VERSION,
    "states": checkpoint.SCHEMA_VERSION,
    "evaluations": outcomes.SCHEMA_VERSION,
}
"""Part of each identity, so that a file of an older schema is never taken for a finished stage."""


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
    return identity | {"schema": _SCHEMAS.get(kind, 1)}


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
    """A verified local copy of the artifact at `ref`, or at this address."""
    return fetch(store(), ref if isinstance(ref, str) else ref.uri, settings().cache)


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


def load(policy: PolicyRef, config: ModelConfig, dtype: torch.dtype | None = None) -> Policy:
    """A fresh policy from a stored folder, on the paths that its acceptance chose; the caller may change it."""
    return _on_its_paths(load_policy(local(policy), config, dtype), policy.acceptance)


def _on_its_paths(policy: Policy, acceptance: str) -> Policy:
    return with_paths(policy, Acceptance.from_json(json.loads(acceptance))) if acceptance else policy


def shared_policy(policy: PolicyRef, config: ModelConfig) -> Policy:
    """A policy for sampling and scoring, kept in memory between the stages of an iteration. Never change it."""
    return _shared(policy.uri, config.model_dump_json(), policy.acceptance)


@lru_cache(maxsize=2)
def _shared(uri: str, config_json: str, acceptance: str) -> Policy:
    loaded = load_policy(local(uri), ModelConfig.model_validate_json(config_json))
    return packed(_on_its_paths(loaded, acceptance))


def shared_tokenizer(policy: Ref) -> PreTrainedTokenizerBase:
    """The tokenizer of a stored policy, kept in memory. Never change it."""
    return _tokenizer(policy.uri)


@lru_cache(maxsize=4)
def _tokenizer(uri: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(local(uri))


def prompt_builder(policy: Ref, config: CampaignConfig) -> PromptBuilder:
    """Both sides' prompts in the tokenizer of `policy`."""
    return PromptBuilder.of(shared_tokenizer(policy), config)


def rollouts_of(*shards: Ref) -> list[Rollout]:
    """The rollouts of stored shards, in their order."""
    return [rollout for shard in shards for rollout in read_rollouts(local(shard) / "rollouts.parquet")]


def stored_examples(data: Ref, split: str) -> list[Example]:
    """A split of a stored data set, kept in memory between the stages of an iteration. Never change it."""
    return _examples(local(data) / f"{split}.parquet")


@lru_cache(maxsize=2)
def _examples(path: Path) -> list[Example]:
    return examples.read_examples(path)
