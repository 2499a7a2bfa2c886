"""What changes from iteration to iteration: which prompts, how long, which context, how explorative."""

from typing import Any, Literal

from pydantic import Field

from opsd_core.config.base import Section

SCHEDULED_SECTIONS = ("rollout", "filter", "token_weights", "teacher", "distillation")
"""Sections whose settings may be scheduled; the rest decides what is measured or what a state file fits."""

FIXED_SETTINGS = (
    "teacher.weights", "teacher.members", "rollout.num_prompts", "rollout.refresh",
    "rollout.environment", "rollout.environment_function", "rollout.max_turns",
)  # fmt: skip
"""Settings in these sections that other iterations rely on: a teacher's state, where the next prompts begin, whose completions
are kept, what champion and candidate are judged with."""


class CurriculumConfig(Section):
    """Off by default: prompts in seeded passes over the training split, every setting fixed."""

    sampling: Literal["uniform", "difficulty"] = Field(
        "uniform",
        description="difficulty = draw prompts with weight p^easy_power (1 - p)^hard_power, p = the running pass rate.",
    )
    easy_power: float = Field(1.0, ge=0, le=20, description="Exponent of p: larger avoids prompts that are never solved.")
    hard_power: float = Field(
        1.0, ge=0, le=20, description="Exponent of 1 - p: larger avoids prompts that are always solved."
    )
    min_pass_rate: float = Field(0.05, ge=0, le=0.5, description="difficulty: prompts with a lower pass rate are not drawn.")
    max_pass_rate: float = Field(0.95, ge=0.5, le=1, description="difficulty: prompts with a higher pass rate are not drawn.")
    length_start: int = Field(
        0,
        ge=0,
        le=131_072,
        description="max_completion_length of the first iteration; it grows up to rollout.max_completion_length. 0 = fixed.",
    )
    length_growth: float = Field(2.0, gt=1, le=100, description="Factor by which the length limit grows per iteration.")
    length_max_entropy: float | None = Field(
        None,
        gt=0,
        le=20,
        description="The limit grows where the rollouts' mean entropy is at most this, in nats; null = always.",
    )
    schedules: dict[str, tuple[Any, ...]] = Field(
        {},
        description="Settings that change over the campaign, each value for an equal share of the iterations, as in "
        '{"teacher.context": ["reference", "hint", "none"], "rollout.temperature": [1.2, 1.0]}.',
    )

    @property
    def tracks_pass_rates(self) -> bool:
        """True when the next iteration depends on what came out of the last one."""
        return self.sampling == "difficulty" or self.length_start > 0
