"""pytest tests/core/judgement/test_calibration.py — the gate's error rate and power, campaign by campaign."""

import math

import pytest

from opsd_core.config import PromotionConfig, resolve
from opsd_core.judgement.calibration import promoting, simulated_campaigns
from opsd_core.judgement.gate import level
from opsd_core.judgement.statistics import mcnemar_power

NULL_CAMPAIGNS = 200
SHIPPED = {name: (c.evaluation.num_items, c.iterations) for name in ("tiny", "demo") for c in [resolve(name)]}


def null_campaigns(num_items, iterations, **promotion):
    config = PromotionConfig(**promotion)
    campaigns = simulated_campaigns(
        config, NULL_CAMPAIGNS, num_items, accuracy=0.5, churn=0.2, iterations=iterations, seed=num_items
    )
    return list(campaigns)


def test_of_200_null_campaigns_no_more_than_alpha_are_promoted():
    """The tiny recipe decides six times a campaign: at alpha for each, more than a tenth of all null campaigns would promote."""
    alpha, campaigns = PromotionConfig().alpha, null_campaigns(*SHIPPED["tiny"])
    promoted, decided = promoting(campaigns)
    assert decided == NULL_CAMPAIGNS and promoted <= alpha * NULL_CAMPAIGNS
    each_alone = [any(v.difference > 0 and v.p_value <= alpha for v in decisions) for decisions in campaigns]
    assert sum(each_alone) > 0.1 * NULL_CAMPAIGNS


@pytest.mark.slow
@pytest.mark.parametrize("test", ["mcnemar", "bootstrap"])
@pytest.mark.parametrize("recipe", sorted(SHIPPED))
def test_both_tests_keep_alpha_at_the_shipped_sizes(recipe, test):
    promoted, _ = promoting(null_campaigns(*SHIPPED[recipe], test=test))
    assert promoted / NULL_CAMPAIGNS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / NULL_CAMPAIGNS)


def test_a_loose_gate_is_seen_to_promote_null_campaigns():
    """What the simulation has to be able to catch."""
    promoted, _ = promoting(null_campaigns(100, 1, alpha=0.499))
    assert promoted > 0.3 * NULL_CAMPAIGNS


@pytest.mark.parametrize("recipe", sorted(SHIPPED))
def test_power_against_five_points_is_what_the_formula_says(recipe):
    """At the level that one of the recipe's iterations has."""
    churn, (num_items, iterations) = 0.10, SHIPPED[recipe]
    config = PromotionConfig(alpha=level(PromotionConfig(), iterations))
    campaigns = simulated_campaigns(config, NULL_CAMPAIGNS, num_items, accuracy=0.5, churn=churn, gain=0.05, seed=1)
    promoted, decided = promoting(campaigns)
    expected = mcnemar_power(num_items, 0.05, churn / 2, config.alpha)
    assert promoted / decided == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / decided))
