"""Evaluation, gate and promotion settings."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from opsd_core.config.base import Section
from opsd_core.config.guards import GuardConfig
from opsd_core.config.kinds.suites import SUITES
from opsd_core.config.refusals import shown

SliceColumn = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


class EvaluationConfig(Section):
    """How a policy is measured on held-out items."""

    num_items: int = Field(200, ge=2, description="Validation items; the same for champion and candidate.")
    block: int = Field(
        50,
        ge=1,
        description="Items that both sides answer between two looks of promotion.test=sequential; fewer stop earlier, more "
        "keep larger batches full.",
    )
    num_samples: int = Field(
        0, ge=0, le=256, description="Sampled completions per item for avg@k, pass@k, maj@k; 0 = greedy ones alone."
    )
    temperature: float = Field(1.0, gt=0, le=5, description="Temperature of the sampled completions.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass of the sampled completions.")
    max_completion_length: int = Field(256, ge=1, description="Most tokens a completion may have.")
    refresh: Literal["never", "after_promotion"] = Field(
        "after_promotion",
        description="Which items a campaign measures, where promotion.alpha_per=model: after_promotion = items that no decision "
        "has seen once those in use have promoted a version, while the split has enough; never = those in use, always.",
    )
    slices: tuple[SliceColumn, ...] = Field(
        (),
        max_length=24,
        description="Data columns by whose values reports show accuracy, written as in data.columns; [] = every short column "
        "that there is, at most 24. Fewer columns are fewer comparisons, so that a smaller fall is seen.",
    )
    max_decisions: int = Field(
        30, ge=1, description="Decisions by the same items after which a campaign warns that they are worn out (alpha_per=model)."
    )

    @field_validator("slices")
    @classmethod
    def _each_column_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in value if value.count(name) > 1}):
            raise ValueError(f"slices names {', '.join(map(repr, twice))} twice. Name each column once.")
        return value


def _or_a_name(schema: dict[str, Any]) -> None:
    """Of a list of guards: a shipped suite may be written by its name alone."""
    schema["items"] = {"anyOf": [{"type": "string", "enum": sorted(SUITES), "title": "a shipped suite"}, schema["items"]]}


class PromotionConfig(Section):
    """When a candidate replaces the champion."""

    mode: Literal["auto", "approve", "manual"] = Field(
        "auto",
        description="auto = the gate moves the alias; approve = a suspended opsd/promote run asks a person when the gate "
        "agrees; manual = a person does, with opsd/promote.",
    )
    approval_hours: float = Field(
        72.0, gt=0, le=8760, description="How long mode=approve waits for an answer; without one it is a refusal."
    )
    test: Literal["mcnemar", "bootstrap", "sequential"] = Field(
        "mcnemar",
        description="Paired test on the same items: exact McNemar (greedy), bootstrap of the mean difference, or sequential = in "
        "blocks of evaluation.block items until the verdict is known, at most evaluation.num_items (docs/algorithm.md).",
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="One-sided error rate of promoting an equal candidate.")
    alpha_per: Literal["model", "campaign", "iteration"] = Field(
        "campaign",
        description="What alpha holds for: model = any promotion in the registered model's life, over all campaigns of its name "
        "(a run that a schedule or an automation starts takes it unless told otherwise); campaign = any promotion in this one, "
        "each iteration is tested at alpha / iterations, and the next campaign starts with a whole alpha; iteration = each one "
        "alone, so that more iterations promote more often by chance.",
    )
    min_effect: float = Field(
        0.0, ge=0, lt=1, description="Smallest accuracy gain worth a promotion (0.01 = one point)."
    )
    max_length_ratio: float = Field(
        2.0, gt=1, description="Guard rail: candidate's mean length over the champion's, and its inverse."
    )
    max_truncation_increase: float = Field(0.1, ge=0, le=1, description="Guard rail: rise of the truncated share.")
    max_repetition_increase: float = Field(
        0.1, ge=0, le=1, description="Guard rail: rise of the share of repetitive completions."
    )
    min_entropy_ratio: float = Field(
        0.1, ge=0, lt=1, description="Guard rail: candidate's mean token entropy over the champion's."
    )
    continue_from: Literal["candidate", "champion"] = Field(
        "candidate", description="Where the next iteration starts after a refusal."
    )
    guards: tuple[GuardConfig, ...] = Field(
        (), description="Suites on which the candidate must not be worse than champion and anchor (docs/gate.md); [] = none.",
        json_schema_extra=_or_a_name,
    )
    guard_alpha: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="One-sided level of each guard: how often a drop of exactly its max_drop is taken for none. All guards must "
        "hold, so their number does not raise it.",
    )
    anchor: Literal["first", "none"] | int = Field(
        "first",
        description="Version that guards compare with besides the champion, so that small losses cannot add up: first = the "
        "registered model's first version, none, or a version's number.",
    )

    @model_validator(mode="after")
    def _guards_have_names_of_their_own(self) -> Self:
        titles = [guard.title for guard in self.guards]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"guards has {', '.join(twice)} twice. Give each guard a name of its own.")
        return self

    @field_validator("anchor", mode="before")
    @classmethod
    def _anchor_is_a_version(cls, value: Any) -> Any:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if value in ("first", "none") or (isinstance(number, int) and not isinstance(number, bool) and 1 <= number < 2**31):
            return number
        raise ValueError(f"anchor={shown(value)} is no version. Write first, none, or a version's number")
