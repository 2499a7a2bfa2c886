"""Typed, nested configuration: sections with described fields, cross-field rules, named recipes."""

from opsd_core.config.alarms import AlarmConfig, Remedy
from opsd_core.config.checked import CampaignConfig
from opsd_core.config.curriculum import CurriculumConfig
from opsd_core.config.judgement import EvaluationConfig, PromotionConfig
from opsd_core.config.method import (
    DistillationConfig,
    OptimizerConfig,
    RolloutConfig,
)
from opsd_core.config.recipes import RECIPES, deep_merge, resolve, without_task
from opsd_core.config.schedules import config_at
from opsd_core.config.selection import FilterConfig, TokenWeightConfig
from opsd_core.config.sources import (
    ColumnMapping,
    DataConfig,
    GraderName,
    LoraConfig,
    ModelConfig,
    PromptConfig,
)
from opsd_core.config.supervised import supervised
from opsd_core.config.teacher import TeacherConfig

__all__ = [
    "RECIPES",
    "AlarmConfig",
    "CampaignConfig",
    "ColumnMapping",
    "CurriculumConfig",
    "DataConfig",
    "DistillationConfig",
    "EvaluationConfig",
    "FilterConfig",
    "GraderName",
    "LoraConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PromotionConfig",
    "PromptConfig",
    "Remedy",
    "RolloutConfig",
    "TeacherConfig",
    "TokenWeightConfig",
    "config_at",
    "deep_merge",
    "resolve",
    "supervised",
    "without_task",
]
