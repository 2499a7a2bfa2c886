"""Which completions are trained on, and how much each of their tokens counts."""

import re
from typing import Literal

from pydantic import Field, field_validator

from opsd_core.config.base import Section
from opsd_core.config.kinds.choices import ENTROPIES, KEPT, POSITIONS, described

LEAK_PHRASES = (
    r"\b(?:as|according to|following|from|per) the (?:reference|given|provided|correct) (?:solution|answer|example)",
    r"\bthe (?:reference|provided|given) (?:solution|answer) (?:shows|says|states|gives|uses|is)\b",
    r"\bcorrect final answer is (?:given|provided|known)\b",
)
"""What a policy writes that was taught to lean on a context it does not have."""


class FilterConfig(Section):
    """Which completions are trained on. Nothing is deleted; every drop is counted with its reason."""

    drop_truncated: bool = Field(False, description="Leave out completions that hit max_completion_length.")
    max_repetition: float = Field(
        10.0, gt=1, description="Leave out completions whose text zlib compresses by more than this factor."
    )
    drop_leaks: bool = Field(
        False, description="Leave out completions that match a leak phrase or copy privileged text; they are counted anyway."
    )
    leak_phrases: tuple[str, ...] = Field(
        LEAK_PHRASES, description="Regular expressions, case ignored, of a text that refers to what the teacher alone saw."
    )
    leak_words: int = Field(
        12,
        ge=0,
        le=10_000,
        description="Words in a row copied from the privileged text, and in neither question nor answer, that make a leak; "
        "0 = phrases alone.",
    )
    min_score: float | None = Field(
        None, ge=0, le=1, description="Leave out completions with a lower grader score; null = no reward filter."
    )
    min_agreement: float = Field(
        0.0, ge=0, le=1, description="Leave out prompts whose most frequent answer has a smaller share of the completions."
    )
    majority_route: Literal["all", "agreeing", "disagreeing"] = Field(
        "all", description="Train on all completions, or on those with or without their prompt's most frequent answer."
    )
    route: Literal["all", "incorrect_only", "correct_only", "pass_rate"] = Field(
        "all",
        description="Train on all graded completions, on the wrong or the right ones alone, or on all with weight "
        "4 p (1 - p), p = the prompt's pass rate.",
    )
    keep_per_prompt: Literal[*KEPT] = Field("all", description=f"Of each prompt: {described(KEPT)}.")
    teacher_probe: Literal["off", "gain", "answer"] = Field(
        "off",
        description="Keep prompts where the teacher's context raises the reference answer's likelihood (gain), or where "
        "the reference answer is what the teacher itself would write, token by token (answer).",
    )
    min_gain: float = Field(
        0.0, ge=-100, le=100, description="teacher_probe=gain: nats per answer token the teacher must be ahead of the policy."
    )

    @field_validator("leak_phrases")
    @classmethod
    def _compiles(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        for phrase in phrases:
            try:
                re.compile(phrase)
            except re.error as error:
                raise ValueError(f"{phrase!r} is not a regular expression: {error}.") from error
        return phrases

    @property
    def silent(self) -> set[str]:
        return {"keep_per_prompt"} if self.keep_per_prompt == "all" else set()


class TokenWeightConfig(Section):
    """How much each completion token counts; the factors multiply. See docs/token_weights_and_filters.md."""

    mask_special_tokens: bool = Field(
        True, description="Special tokens inside a completion do not count; end-of-sequence does."
    )
    truncated_weight: float = Field(
        1.0, ge=0, le=1, description="Factor of every token of a truncated completion; 0 masks it."
    )
    position: Literal[*POSITIONS] = Field("uniform", description=f"By place in the completion: {described(POSITIONS)}.")
    position_floor: float = Field(0.25, ge=0, le=1, description="Smallest position weight.")
    position_centre: float = Field(0.30, ge=0, le=1, description="Relative position at which the weight is half-way up.")
    position_width: float = Field(0.10, gt=0, le=10, description="Relative width of the rise.")
    entropy: Literal[*ENTROPIES] = Field("uniform", description=f"By the entropy H: {described(ENTROPIES)}.")
    entropy_of: Literal["teacher", "student"] = Field(
        "teacher", description="Whose entropy H: the recorded target's, or the policy's when it sampled."
    )
    entropy_beta: float = Field(1.0, gt=0, le=100, description="Slope of the down and up entropy weights, per nat.")
    entropy_fraction: float = Field(0.5, gt=0, le=1, description="entropy=top, random: share of each completion's tokens kept.")
    leak_span: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Tokens copied in a row from what the teacher's prompt alone holds that make a leak, whose tokens do not "
        "count; 0 = off.",
    )
    normaliser: Literal["token", "sequence"] = Field(
        "token", description="token = every weighted token counts alike; sequence = every completion counts alike."
    )
    importance_correction: bool = Field(
        False, description="Multiply each token's loss by policy(now) / policy(when it sampled), detached and clipped."
    )
    importance_clip: float = Field(2.0, ge=1, le=1000, description="Largest importance ratio.")
    max_staleness: int = Field(
        1, ge=0, le=1000, description="Most iterations between the policy that sampled and the one that learns."
    )
