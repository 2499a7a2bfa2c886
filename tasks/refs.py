"""What stages hand to each other: addresses and a few numbers, never tensors or clients.

Every record is a frozen pydantic model, so that Prefect can show it and a result can be stored as JSON.
"""

from pydantic import BaseModel, ConfigDict, Field

from opsd_core.config import CampaignConfig


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PolicyRef(Record):
    """A policy's weights, and the trainer state that produced them."""

    uri: str
    digest: str
    state_uri: str | None = None
    """Final trainer state of the iteration that made it; None for the initial policy."""
    version: int | None = None
    """Version in the MLflow registry, once registered."""


class Campaign(Record):
    """Everything that stays the same during a campaign."""

    id: str
    config: CampaignConfig
    config_uri: str
    data_uri: str
    initial: PolicyRef
    champion: PolicyRef
    """The champion when the campaign started."""
    teachers: list[PolicyRef] = []
    """Other models that teach or whose answers are shown; those named opsd:... as they are in this iteration."""
    solved: str | None = None
    """Address of what they answer to this iteration's prompts, right or wrong, where the gate or the context asks for it."""
    rehearsal: str | None = None
    """Address of what the initial policy answers to prompts of other tasks, where rehearsal.share is above 0."""
    run_id: str
    """MLflow parent run."""
    pretraining: bool = False
    """True when opsd/pretrain made it: its champions are where campaigns of the same name start."""
    flow_run_id: str | None = None
    git_revision: str = ""

    @property
    def start(self) -> PolicyRef:
        """Where the first iteration starts: the initial policy, with its version when it is the champion."""
        return self.champion if self.champion.digest == self.initial.digest else self.initial

    @property
    def name(self) -> str:
        return self.config.name


class PromptSet(Record):
    """The training prompts of one iteration, cut into shards."""

    iteration: int
    uri: str
    num_prompts: int
    num_shards: int


class CurriculumRef(Record):
    """Pass rates and length limit after an iteration."""

    uri: str
    digest: str
    max_completion_length: int | None = None


class ShardRef(Record):
    """One shard of rollouts."""

    iteration: int
    shard: int
    uri: str
    digest: str
    num_rollouts: int
    num_references: int = 0
    """Of the rollouts, those that are reference texts."""
    num_tokens: int
    seconds: float = Field(description="Model compute; 0 when an existing shard was reused.")


class GradedRef(Record):
    """Grades and keep/drop decisions for all shards of an iteration."""

    uri: str
    digest: str
    num_kept: int
    num_dropped: int
    num_references: int = 0
    """Of all completions, those that are reference texts."""
    reasons: dict[str, int]
    metrics: dict[str, float] = {}
    """Monitors of the samples: tokens, accuracy, lengths, truncation, repetition, leaks, entropy; absent without samples."""
    seconds: float


class TargetsRef(Record):
    """Teacher targets of one shard."""

    shard: int
    uri: str
    digest: str
    num_tokens: int
    metrics: dict[str, float] = {}
    """How far both sides' most likely tokens are the same."""
    seconds: float


class DistilRef(Record):
    """The candidate that an iteration's optimiser steps made."""

    policy: PolicyRef
    metrics: dict[str, float]
    probes: dict[str, float]
    steps_uri: str
    seconds: float


class EvaluationRef(Record):
    """Per-item outcomes of one policy on the held-out items."""

    uri: str
    digest: str
    conditions_digest: str
    """Items, grader, template and sampling; only evaluations with the same one can be compared."""
    metrics: dict[str, float]
    seconds: float


class VerdictRef(Record):
    """What the gate said and what was done about it."""

    uri: str
    promote: bool
    summary: str
    reasons: list[str]
    champion: PolicyRef
    """The champion after the decision was carried out."""
