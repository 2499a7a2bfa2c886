"""Typed, nested configuration: sections with described fields, cross-field rules, named recipes."""

from opsd_core.config.campaign import CampaignConfig
from opsd_core.config.judgement import EvaluationConfig, PromotionConfig
from opsd_core.config.method import (
    DistillationConfig,
    FilterConfig,
    OptimizerConfig,
    RolloutConfig,
    TeacherConfig,
)
from opsd_core.config.recipes import RECIPES, deep_merge, resolve
from opsd_core.config.sources import (
    ColumnMapping,
    DataConfig,
    GraderName,
    LoraConfig,
    ModelConfig,
    PromptConfig,
)

__all__ = [
    "RECIPES",
    "CampaignConfig",
    "ColumnMapping",
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
    "RolloutConfig",
    "TeacherConfig",
    "deep_merge",
    "resolve",
]
