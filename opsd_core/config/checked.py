"""The configuration of a campaign: all settings, and every rule between them holds."""

from typing import Self

from pydantic import model_validator

from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.rules.check import check_rules


class CampaignConfig(CampaignSettings):
    """Everything that decides what a campaign computes. Combinations that cannot work are refused when it is made."""

    @model_validator(mode="after")
    def _cross_field_rules(self) -> Self:
        check_rules(self)
        return self
