"""What the policy should keep: prompts of other tasks, at which it should answer as it did at the start."""

from pydantic import Field

from opsd_core.config.base import Section
from opsd_core.config.sources import DataConfig, PromptConfig


class RehearsalConfig(Section):
    """Other prompts, answered once by the initial policy; the student is held to what it said. No labels are needed."""

    share: float = Field(
        0.0, ge=0, le=0.9, description="Share of every optimiser step's completions that are rehearsed; 0 = none."
    )
    coefficient: float = Field(
        1.0, gt=0, le=100, description="Factor of their mean KL(initial policy || student), added to the objective's mean."
    )
    data: tuple[DataConfig, ...] = Field(
        (), description="Where their prompts come from, each as the section data, in equal parts; answers are not read."
    )
    prompts: PromptConfig = Field(PromptConfig(), description="Their template; the student's side counts.")
    num_prompts: int = Field(
        256, ge=1, le=1_000_000, description="Prompts answered before the first iteration, sampled as rollout.* says."
    )
