"""Rollouts, filter, divergence, optimiser: the method's settings."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from opsd_core.config.base import Section
from opsd_core.config.kinds.choices import BOUNDS, REFRESHES, described
from opsd_core.config.kinds.divergences import DIVERGENCE_KINDS, DivergenceKind
from opsd_core.config.kinds.environments import ENVIRONMENT_KINDS
from opsd_core.config.kinds.places import FunctionPlace, TemplateText

_WHEN_SAMPLED = {"num_prompts", "refresh", "min_overlap", "min_effective_sample_size", "refill"}
"""Settings of `rollout` that decide when and of what completions are sampled, not how."""


class RefillConfig(Section):
    """Asking prompts again, round after round, until enough of them have a right completion or the budget is spent."""

    share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the prompts that shall have a right completion, of those with an answer that the policy answers "
        "itself; prompts without one are asked again. 0 = none is.",
    )
    group_size: int = Field(
        0, ge=0, le=256, description="Completions per prompt that is asked again, in each round; 0 = rollout.group_size."
    )
    max_rounds: int = Field(
        4, ge=1, le=64, description="Most rounds of an iteration; the completions of each are graded before the next one."
    )
    max_completions: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Most completions of all rounds of an iteration together; which prompts are asked is drawn where they do not "
        "suffice for all. null = no limit but max_rounds.",
    )


class RolloutConfig(Section):
    """How completions are sampled, and when."""

    num_prompts: int = Field(64, ge=1, le=1_000_000, description="Training prompts per iteration.")
    group_size: int = Field(1, ge=1, le=256, description="Completions per prompt.")
    temperature: float = Field(1.0, gt=0, le=5, description="Sampling temperature.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass kept; 1 = all.")
    top_k: int = Field(0, ge=0, description="Tokens kept before sampling; 0 = all.")
    max_completion_length: int = Field(256, ge=1, le=131_072, description="Most tokens a completion may have.")
    record_top_k: int = Field(32, ge=1, le=1024, description="Largest log-probabilities stored at each position.")
    on_policy_fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the prompts that the policy answers itself; at the others the completion is the reference text.",
    )
    reference_completion: TemplateText = Field(
        "",
        description="Jinja template of a reference completion (question, answer, solution); empty = the solution where "
        "data.columns.solution names one, else the answer. End-of-sequence is added.",
    )
    refresh: Literal[*REFRESHES] = Field(
        "every_iteration", description=f"When prompts are drawn and answered anew: {described(REFRESHES)}."
    )
    min_overlap: float = Field(
        0.8,
        ge=0,
        le=1,
        description="refresh=overlap only: completions are kept while at least this share of the recorded record_top_k tokens "
        "are the present policy's too, on average over positions.",
    )
    min_effective_sample_size: float = Field(
        0.8,
        ge=0,
        le=1,
        description="refresh=overlap only: completions are kept while the importance ratios, clipped at "
        "token_weights.importance_clip, leave at least this effective share of their tokens.",
    )
    refill: RefillConfig = Field(RefillConfig(), description="Until how many prompts have a right completion.")
    environment: Literal[*ENVIRONMENT_KINDS] = Field(
        "none",
        description="What answers the policy between its turns, in rollouts and in evaluations: "
        f"{described({name: kind.meaning for name, kind in ENVIRONMENT_KINDS.items()})}. Only the policy's own tokens count; "
        "max_completion_length holds for the whole conversation.",
    )
    environment_function: FunctionPlace = Field(
        "",
        description="environment=python only: function(messages) returns (message, done); package.module:function or "
        "path/of/file.py:function.",
    )
    max_turns: int = Field(
        4, ge=2, le=64, description="With an environment only: most turns of the policy; a conversation that needs more is cut."
    )

    @model_validator(mode="after")
    def _environment_has_its_function(self) -> Self:
        if self.environment == "python" and not self.environment_function:
            raise ValueError(
                "rollout.environment=python without rollout.environment_function: there is no function that answers. Set "
                "rollout.environment_function to package.module:function or path/of/file.py:function."
            )
        return self

    @property
    def silent(self) -> set[str]:
        alone = {"environment", "environment_function", "max_turns"} if self.environment == "none" else set()
        return alone | (set() if self.refill.share else {"refill"})

    @property
    def sampling(self) -> dict[str, Any]:
        """What decides how a prompt is answered."""
        return self.identity(exclude=_WHEN_SAMPLED)

    @property
    def asks_again(self) -> bool:
        """True when prompts without a right completion are asked again."""
        return self.refill.share > 0.0 and self.on_policy_fraction > 0.0

    @property
    def refill_group(self) -> int:
        """Completions of a prompt that is asked again, in each round."""
        return self.refill.group_size or self.group_size

    @property
    def most_completions(self) -> int:
        """Of an iteration, if every prompt is asked as often as it may be."""
        rounds = self.num_prompts * self.refill_group * self.refill.max_rounds if self.asks_again else 0
        most = self.refill.max_completions
        return self.num_prompts * self.group_size + (rounds if most is None else min(rounds, most))


def _meanings(teacher_free: bool) -> str:
    return described({name: kind.meaning for name, kind in DIVERGENCE_KINDS.items() if kind.teacher_free == teacher_free})


class DistillationConfig(Section):
    """The token-level divergence and its bound."""

    divergence: Literal[*DIVERGENCE_KINDS] = Field(
        "forward_kl",
        description=f"{_meanings(teacher_free=False)}. Without a teacher: {_meanings(teacher_free=True)}.",
    )
    opsa_fraction: float = Field(
        0.2, gt=0, le=1, description="opsa only: share of an optimiser step's tokens, least likely first, that count."
    )
    beta: float = Field(
        0.5, ge=0, le=1, description="jsd only: teacher's weight in the mixture; 0 = forward KL, 1 = reverse KL."
    )
    normalise_beta: bool = Field(
        False, description="jsd only: divide by beta (1 - beta), so that the limits of beta join the two KLs smoothly."
    )
    skew: float = Field(0.1, ge=0.01, le=0.99, description="skew_kl only: teacher's weight in the mixture.")
    entropy_threshold: float = Field(
        0.8, ge=0, le=20, description="entropy_mix only: teacher entropy, in nats, at which both KLs weigh the same."
    )
    entropy_width: float = Field(
        0.1, gt=0, le=10, description="entropy_mix only: nats over which forward KL takes over from reverse KL."
    )
    targets: Literal["recorded", "online"] = Field(
        "recorded",
        description="recorded = teacher's top-k + tail, computed once and stored; online = full vocabulary, recomputed.",
    )
    top_k_of: Literal["full", "teacher", "student", "union"] = Field(
        "full",
        description="online targets: compare the full vocabulary, or the top_k entries of a side (or both) and a tail. "
        "Recorded targets always hold the teacher's.",
    )
    top_k: int = Field(32, ge=1, le=1024, description="Entries kept per position: of recorded targets, or of top_k_of.")
    tail: Literal["bucket", "sampled"] = Field(
        "bucket",
        description="What stands for entries that are not kept: bucket = one entry with their mass; sampled = reverse KL only: "
        "the sampled token where it is not kept, so that the mean gradient is that over the whole vocabulary.",
    )
    temperature: float = Field(1.0, gt=0, le=10, description="Divides both sides' logits in the loss.")
    scale_by_temperature_squared: bool = Field(
        False, description="Multiply the loss by temperature squared, which partly restores the gradient's size."
    )
    bound: Literal[*BOUNDS] = Field("token_reweight", description=f"Bound per token: {described(BOUNDS)}.")
    bound_threshold: float = Field(1.0, gt=0, description="tau of the bound, in nats.")
    gold_share: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Share of every optimiser step's completions that are references, trained with cross-entropy; 0 = none.",
    )
    gold_coefficient: float = Field(
        1.0, gt=0, le=100, description="gold_share: factor of the references' mean cross-entropy, added to the objective's mean."
    )
    merge_stop: Literal["auto", "off"] = Field(
        "auto",
        description="Where more than one token ends the completions of policy or teacher: auto = compare them as one stop event, "
        "however each side writes it; off = each token for itself, which unlearns the policy's own stop where the teacher ends "
        "with another token.",
    )
    initial_kl: float = Field(
        0.0,
        ge=0,
        le=100,
        description="beta of beta KL(student || initial policy), both after the student's prompt, in addition; 0 = none.",
    )
    skip_first_tokens: int = Field(0, ge=0, description="Completion tokens at the start that do not count.")

    @property
    def kind(self) -> DivergenceKind:
        """The divergence's properties; at the limits of beta those of what it is there."""
        kind = DIVERGENCE_KINDS[self.divergence]
        return DIVERGENCE_KINDS[kind.at_beta[self.beta]] if self.beta in kind.at_beta else kind

    @property
    def teacher_free(self) -> bool:
        """True when no teacher is loaded, probed or scored; bound and targets then have no effect."""
        return self.kind.teacher_free

    @property
    def value_scale(self) -> float:
        """What a token's value is multiplied with, after its bound."""
        return self.temperature**2 if self.scale_by_temperature_squared else 1.0

    @property
    def samples_tail(self) -> bool:
        """True when the sampled token stands for the entries that are not kept."""
        return self.tail == "sampled" and bool(self.kind.sampled_tail) and (self.records_targets or self.top_k_of != "full")

    @property
    def records_targets(self) -> bool:
        """True when a teacher's distribution is stored before training."""
        return self.targets == "recorded" and not self.teacher_free


class OptimizerConfig(Section):
    """AdamW and its schedule over the whole campaign."""

    learning_rate: float = Field(1e-5, gt=0, le=1, description="Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="Decay over all iterations' steps.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of all steps with a rising rate.")
    final_fraction: float = Field(0.1, ge=0, le=1, description="Rate at the end, as a share of the peak.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled weight decay.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of the second moment.")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator.")
    max_grad_norm: float = Field(1.0, gt=0, description="Global gradient-norm clip.")
    num_steps: int = Field(20, ge=1, le=1_000_000, description="Optimiser steps per iteration.")
    batch_size: int = Field(32, ge=1, le=65_536, description="Completions per optimiser step.")
