"""A campaign's configuration made supervised: the same model, data and optimiser, references in place of a teacher."""

from pydantic import ValidationError

from opsd_core.config.checked import CampaignConfig
from opsd_core.config.recipes import deep_merge
from opsd_core.config.refusals import explained
from opsd_core.errors import ConfigError

_SUPERVISED = {
    "model": {"warm_start": False},
    "rollout": {"on_policy_fraction": 0.0, "group_size": 1},
    "distillation": {"divergence": "cross_entropy", "gold_share": 0.0},
    "filter": {"teacher_probe": "off", "majority_route": "all", "min_agreement": 0.0},
    "token_weights": {"entropy": "uniform", "leak_span": 0, "importance_correction": False},
}


def supervised(config: CampaignConfig) -> CampaignConfig:
    """`config` with cross-entropy on references only. ConfigError when schedules would bring something else back."""
    if scheduled := sorted(config.curriculum.schedules):
        raise ConfigError(
            f"curriculum.schedules of {', '.join(scheduled)}: pretraining has one objective and one kind of completion from "
            "beginning to end. Leave curriculum.schedules out, or schedule rollout.on_policy_fraction in opsd/iterate instead."
        )
    try:
        return CampaignConfig.model_validate(deep_merge(config.model_dump(), _SUPERVISED))
    except ValidationError as error:
        raise ConfigError(f"pretraining with this configuration is refused: {explained(error, CampaignConfig)}") from error
