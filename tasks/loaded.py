"""What stages read from stored artifacts: policies and tokenizers, kept in memory; rollouts and examples, a few at a time."""

import gc
import json
from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from opsd_core.acceptance import Acceptance, with_paths
from opsd_core.config import CampaignConfig, ModelConfig
from opsd_core.models.packing import packed
from opsd_core.models.policy import Policy, load_policy, load_tokenizer
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import StoredExamples
from opsd_core.records.grades import Grades
from opsd_core.records.rollouts import StoredRollouts
from opsd_core.records.targets import StoredTargets
from opsd_core.rollout.engines.server import stop_servers
from tasks.context import local, settings
from tasks.refs import PolicyRef, Ref


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


def release() -> None:
    """Let go of every policy that is kept, in the device's memory too, and of engines; who still uses a policy keeps it alive."""
    stop_servers()
    _shared.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def shared_tokenizer(policy: Ref) -> PreTrainedTokenizerBase:
    """The tokenizer of a stored policy, kept in memory. Never change it."""
    return _tokenizer(policy.uri)


@lru_cache(maxsize=4)
def _tokenizer(uri: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(local(uri))


def prompt_builder(policy: Ref, config: CampaignConfig) -> PromptBuilder:
    """Both sides' prompts in the tokenizer of `policy`."""
    return PromptBuilder.of(shared_tokenizer(policy), config)


def rollouts_of(*shards: Ref) -> StoredRollouts:
    """The rollouts of stored shards, in their order, read when they are asked for."""
    return StoredRollouts([local(shard) / "rollouts.parquet" for shard in shards], settings().cache)


def targets_of(*shards: Ref) -> StoredTargets:
    """The targets of stored shards, as `rollouts_of`."""
    return StoredTargets([local(shard) / "targets.parquet" for shard in shards])


def grades_of(graded: Ref) -> Grades:
    """The grades of an iteration, as columns."""
    return Grades.read(local(graded) / "grades.parquet")


def stored_examples(data: Ref, split: str) -> StoredExamples:
    """A split of a stored data set, read when it is asked for; where its items lie is kept between the stages."""
    return _examples(local(data) / f"{split}.parquet")


@lru_cache(maxsize=2)
def _examples(path: Path) -> StoredExamples:
    return StoredExamples([path])
