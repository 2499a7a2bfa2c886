"""All settings of a campaign, section by section."""

from typing import Any

from pydantic import Field

from opsd_core.config.alarms import AlarmConfig
from opsd_core.config.base import Section
from opsd_core.config.curriculum import CurriculumConfig
from opsd_core.config.execution import ExecutionConfig
from opsd_core.config.judgement import EvaluationConfig, PromotionConfig
from opsd_core.config.method import (
    DistillationConfig,
    OptimizerConfig,
    RolloutConfig,
)
from opsd_core.config.rehearsal import RehearsalConfig
from opsd_core.config.selection import FilterConfig, TokenWeightConfig
from opsd_core.config.sources import DataConfig, ModelConfig, PromptConfig
from opsd_core.config.teacher import TeacherConfig


class CampaignSettings(Section):
    """Everything that decides what a campaign computes, before the rules between settings are checked."""

    name: str = Field("opsd", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Campaign and registered-model name.")
    seed: int = Field(0, ge=0, description="Seed of everything that is drawn at random.")
    iterations: int = Field(1, ge=1, le=1000, description="Iterations of roll out, distil, evaluate, gate.")
    model: ModelConfig = Field(description="The policy's starting weights.")
    data: DataConfig = Field(description="The dataset and its splits.")
    prompts: PromptConfig = Field(PromptConfig(), description="Student and teacher templates.")
    rollout: RolloutConfig = Field(RolloutConfig(), description="Sampling of completions.")
    filter: FilterConfig = Field(FilterConfig(), description="Which completions are trained on.")
    token_weights: TokenWeightConfig = Field(TokenWeightConfig(), description="How much each completion token counts.")
    teacher: TeacherConfig = Field(TeacherConfig(), description="The teacher's weights, context and transforms.")
    distillation: DistillationConfig = Field(DistillationConfig(), description="Divergence, targets, bound.")
    rehearsal: RehearsalConfig = Field(RehearsalConfig(), description="What the policy should keep.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW, schedule, steps.")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="Held-out measurement.")
    curriculum: CurriculumConfig = Field(CurriculumConfig(), description="What changes from iteration to iteration.")
    alarms: AlarmConfig = Field(AlarmConfig(), description="When training stops, and what is done then.")
    promotion: PromotionConfig = Field(PromotionConfig(), description="Gate and aliases.")
    execution: ExecutionConfig = Field(
        ExecutionConfig(), description="How the work is computed; in identities are only overlap and what samples."
    )
    control: bool = Field(
        False, description="Declares a control arm: allows configurations that cannot learn (null, shuffled reference)."
    )

    def deciding(self, *besides: str) -> dict[str, Any]:
        """The settings that decide results, as JSON, without the sections `besides`.

        Of `execution` these are the engine and what of its record is checked, where they are not the defaults.
        """
        found = self.identity(mode="json", exclude={"execution", *besides})
        return found | {"execution": self.execution.sampling} if self.execution.sampling else found

    @property
    def uses_references(self) -> bool:
        """True when the data set's own texts are trained on."""
        return self.rollout.on_policy_fraction < 1.0 or self.distillation.gold_share > 0.0

    @property
    def context_from_rollouts(self) -> bool:
        """True when a teacher is shown what this iteration's completions say."""
        return self.teacher.kind.rollouts and not self.distillation.teacher_free
