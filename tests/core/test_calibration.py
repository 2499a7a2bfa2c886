"""pytest tests/core/test_calibration.py — the gate's error rate and power, decision by decision."""

import math

import pytest

from opsd_core.calibration import promoted_share, simulated_verdicts
from opsd_core.config import RECIPES, PromotionConfig
from opsd_core.statistics import mcnemar_power

NULL_CAMPAIGNS = 200
SIZES = {name: RECIPES[name]["evaluation"]["num_items"] for name in ("tiny", "demo")}


def null_campaigns(num_items, **promotion):
    config = PromotionConfig(**promotion)
    verdicts = simulated_verdicts(config, NULL_CAMPAIGNS, num_items, accuracy=0.5, churn=0.2, seed=num_items)
    promoted, decided = promoted_share(verdicts)
    assert decided == NULL_CAMPAIGNS
    return promoted / decided, 3 * math.sqrt(config.alpha * (1 - config.alpha) / decided)


def test_of_200_null_campaigns_no_more_than_alpha_are_promoted():
    share, error = null_campaigns(SIZES["tiny"])
    assert share <= 0.05 + error, share


@pytest.mark.slow
@pytest.mark.parametrize("test", ["mcnemar", "bootstrap"])
@pytest.mark.parametrize("num_items", sorted(SIZES.values()))
def test_both_tests_keep_alpha_at_the_shipped_sizes(num_items, test):
    share, error = null_campaigns(num_items, test=test)
    assert share <= 0.05 + error, share


def test_a_loose_gate_is_seen_to_promote_null_campaigns():
    """What the simulation has to be able to catch."""
    share, _ = null_campaigns(100, alpha=0.499)
    assert share > 0.3


def test_power_against_five_points_is_what_the_formula_says():
    config, churn, num_items = PromotionConfig(), 0.10, SIZES["tiny"]
    verdicts = simulated_verdicts(config, NULL_CAMPAIGNS, num_items, accuracy=0.5, churn=churn, gain=0.05, seed=1)
    promoted, decided = promoted_share(verdicts)
    expected = mcnemar_power(num_items, 0.05, churn / 2, config.alpha)
    assert promoted / decided == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / decided))
