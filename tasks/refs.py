"""What stages hand to each other: addresses and a few numbers, never tensors or clients.

Every record is a frozen pydantic model, so that Prefect can show it and a result can be stored as JSON.

    Ref          the address of something stored (`tasks.record`); what was asked and answered stands in `tasks.asked`
    Campaign     what stays the same during a campaign
    Iteration    one iteration: the configuration in force, its MLflow run, who samples, who is champion, who teaches
    Sampled      the first half of an iteration: what was asked, answered, graded, and scored by the teacher
    Outcome      the result of an iteration: candidate, both evaluations, verdict
    AnswersRef   the page that shows what was answered before and after
"""

from typing import Any

from pydantic import Field

from opsd_core.config import CampaignConfig
from tasks.asked import AskedAgain, PromptSet, Refilled, ShardRef
from tasks.record import Record, Ref

__all__ = ["AskedAgain", "PromptSet", "Record", "Ref", "Refilled", "ShardRef"]  # beside the records of this file


class PolicyRef(Ref):
    """A policy's weights, and the trainer state that produced them."""

    digest: str
    state: Ref | None = None
    """Final trainer state of the iteration that made it; None for the initial policy."""
    version: int | None = None
    """Version in the MLflow registry, once registered."""
    acceptance: str = ""
    """JSON of `opsd_core.acceptance.Acceptance`: on which paths its architecture is sampled and scored. Empty: the usual ones."""


class GuardItems(Ref):
    """The items of the guard of this name, stored, with a digest over their ids."""

    guard: str
    num_items: int
    items_digest: str


class Campaign(Record):
    """Everything that stays the same during a campaign."""

    id: str
    config: CampaignConfig
    """As it was resolved; what an iteration uses is `Iteration.config`."""
    record: Ref
    """Resolved configuration and environment, stored."""
    data: Ref
    initial: PolicyRef
    champion: PolicyRef
    """The champion when the campaign started."""
    teachers: list[PolicyRef] = Field([])
    """Other models that teach or whose answers are shown; those named opsd:... as they were at the start."""
    rehearsal: Ref | None = None
    """What the initial policy answers to prompts of other tasks, where rehearsal.share is above 0."""
    guards: list[GuardItems] = Field([])
    anchor: PolicyRef | None = None
    run_id: str
    """MLflow parent run."""
    items_from: str = ""
    """Id from which on held-out items are taken; empty: the first ones."""
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


class CurriculumRef(Ref):
    """Pass rates and length limit after an iteration."""

    digest: str
    max_completion_length: int | None = None


class Iteration(Record):
    """One iteration as it begins."""

    campaign: Campaign
    number: int
    config: CampaignConfig
    """In force: schedules, the length limit and an alarm's remedy are applied."""
    run_id: str
    """MLflow run, a child of the campaign's."""
    policy: PolicyRef
    """Is trained, and samples the completions unless they were at hand (rollout.refresh, execution.overlap)."""
    champion: PolicyRef
    """The candidate is compared with it."""
    teachers: list[PolicyRef] = Field([])
    """Other models that teach in this iteration, in the order of the configuration's sources."""
    solved: Ref | None = None
    """What they answer to this iteration's prompts, right or wrong, where the filter or the context asks for it."""
    curriculum: CurriculumRef | None = None
    """Pass rates and length limit after the iteration before; None at the first, and without a curriculum."""

    @property
    def name(self) -> str:
        return self.campaign.name


class GradedRef(Ref):
    """Grades and keep/drop decisions for all shards of an iteration."""

    digest: str
    num_kept: int
    num_dropped: int
    num_references: int = 0
    """Of all completions, those that are reference texts."""
    reasons: dict[str, int]
    metrics: dict[str, float] = Field({})
    """Monitors of the samples: tokens, accuracy, lengths, truncation, repetition, leaks, entropy; absent without samples."""
    seconds: float


class TargetsRef(Ref):
    """Teacher targets of one shard."""

    shard: int
    digest: str
    num_tokens: int
    metrics: dict[str, float] = Field({})
    """How far both sides' most likely tokens are the same."""
    seconds: float


class Judged(Record):
    """Whether an earlier iteration's completions are learned from once more, and why."""

    keep: bool = False
    reason: str = ""
    metrics: dict[str, float] = Field({})
    seconds: float = 0.0
    uri: str = ""
    """Of the stored judgement; empty where there was nothing to judge."""


class Held(Record):
    """Completions that an iteration learns from, and later ones may learn from again."""

    prompts: PromptSet
    shards: list[ShardRef]
    curriculum: CurriculumRef | None = None
    """With which their prompts were drawn and they are graded."""
    sampling: dict[str, Any]
    refilled: Refilled | None = None

    def sampled(self, graded: GradedRef, judged: Judged) -> "Sampled":
        """With the grades of an iteration that learns from them."""
        return Sampled(prompts=self.prompts, shards=self.shards, refilled=self.refilled, graded=graded, judged=judged)


class Sampled(Record):
    """The first half of an iteration: rollouts, sampled just now or stored (`flows.replay`), with grades and targets."""

    prompts: PromptSet
    shards: list[ShardRef]
    graded: GradedRef
    judged: Judged = Judged()
    refilled: Refilled | None = None
    targets: list[TargetsRef] = Field([])
    """Empty where the teacher answers during training."""


class DistilRef(Record):
    """The candidate that an iteration's optimiser steps made."""

    policy: PolicyRef
    metrics: dict[str, float]
    probes: dict[str, float]
    seconds: float
    alarms: list[str] = Field([])
    """Of its steps, in words."""


class EvaluationRef(Ref):
    """Per-item outcomes of one policy on the held-out items."""

    digest: str
    conditions_digest: str
    """Items, grader, template and sampling; only evaluations with the same one can be compared."""
    metrics: dict[str, float]
    seconds: float
    planned: int = 0
    """Items that would have been answered, had the sequential test not stopped; 0 = those that were."""
    blocks: list[str] = Field([])
    """Addresses of the evaluations that it was put together from."""

    @property
    def answered(self) -> str:
        """Such as 250, or 75 of 250."""
        number = f"{self.metrics['eval/num_items']:,.0f}"
        return f"{number} of {self.planned:,}" if self.planned else number


class Compared(Record):
    """Two evaluations of the same items."""

    before: EvaluationRef
    """Of the champion."""
    after: EvaluationRef
    """Of the candidate."""


class GuardAnswers(Record):
    """Everybody's answers to one guard's items; no anchor's where it is the champion, or there is none."""

    guard: str
    items: GuardItems
    candidate: EvaluationRef
    champion: EvaluationRef
    anchor: EvaluationRef | None = None
    anchor_version: int | None = None


class VerdictRef(Ref):
    """What the gate said and what was done about it."""

    promote: bool
    summary: str
    reasons: list[str]
    champion: PolicyRef
    """The champion after the decision was carried out."""
    metrics: dict[str, float] = Field({})
    outcome: str = ""
    """promoted, refused, or waits for a person: what was done, which with an approval is not what the gate said."""


class Outcome(Record):
    """The result of an iteration."""

    sampled: Sampled
    distilled: DistilRef
    before: EvaluationRef
    """Of the champion."""
    after: EvaluationRef
    """Of the candidate."""
    candidate: PolicyRef
    verdict: VerdictRef
    guards: list[GuardAnswers] = Field([])
    alarms: list[str] = Field([])
    """Limits that monitors passed in this iteration, in words."""


ANSWERS_PAGE = "answers.html"
"""Name of the page, in the store and at the iteration's MLflow run."""


class AnswersRef(Ref):
    """The page of an iteration's answers."""

    address: str
    """Where MLflow shows it."""
    taught: list[str] = Field([])
    """Signs that the teacher taught nothing, a sentence each."""
