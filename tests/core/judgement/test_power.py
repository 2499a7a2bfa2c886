"""pytest tests/core/judgement/test_power.py — what is said before a campaign starts is what the gate then does."""

import pytest

from opsd_core.config import resolve
from opsd_core.judgement.gate import level
from opsd_core.judgement.power import CHURN, CHURNS, gate_in_words, gate_power
from opsd_core.judgement.statistics import mcnemar_power

SEQUENTIAL = {"promotion": {"test": "sequential"}, "evaluation": {"block": 25}}


def power_of(recipe, *overrides, items=None):
    config = resolve(recipe, *overrides)
    return gate_power(config, items or config.evaluation.num_items, level(config.promotion, config.iterations))


def test_the_fixed_tests_smallest_gain_is_exact_at_the_decisions_level():
    found = power_of("tiny")
    assert found.level == pytest.approx(0.05 / 6) and list(found.gains) == list(CHURNS) and found.mean_items == (250, 250)
    for churn, gain in found.gains.items():
        assert mcnemar_power(250, gain, churn / 2, found.level) >= 0.8 > mcnemar_power(250, gain - 0.001, churn / 2, found.level)
    assert power_of("tiny", {"promotion": {"alpha_per": "iteration"}}).gains[CHURN] < found.gains[CHURN]


def test_the_sequential_test_sees_nearly_as_small_gains_in_fewer_items():
    fixed, sequential = power_of("tiny"), power_of("tiny", SEQUENTIAL)
    for churn in CHURNS:
        assert fixed.gains[churn] - 0.003 <= sequential.gains[churn] <= fixed.gains[churn] + 0.012
    none, seen = sequential.mean_items
    assert none < 0.7 * 250 and seen < 250


def test_the_words_name_items_level_gains_tokens_and_minutes():
    words = gate_in_words(power_of("demo"), minutes=2.0, tokens_per_second=50.0)
    assert "150 held-out items at level 0.05 (mcnemar)" in words[0] and "9.3 points where 10%" in words[0]
    assert "about 6,000 tokens and 2.0 minutes" in words[1] and len(gate_in_words(power_of("demo"))) == 1
    sequential = gate_in_words(power_of("demo", SEQUENTIAL), minutes=2.0, tokens_per_second=50.0)
    assert "at most 150" in sequential[1] and "about 5," in sequential[2]


@pytest.mark.parametrize("test", ["mcnemar", "bootstrap", "sequential"])
def test_a_gate_that_can_promote_nothing_says_so_and_what_to_change(test):
    found = power_of("tiny", {"promotion": {"test": test}}, items=6)
    (words,) = gate_in_words(found, 1.0, 1.0)
    assert found.impossible and "can promote nothing" in words and "evaluation.num_items" in words
    assert set(found.gains.values()) == {None}
    assert not power_of("tiny", {"promotion": {"test": test}}, items=20).impossible
    assert "less with the mean of samples" in gate_in_words(
        power_of("tiny", {"promotion": {"test": "bootstrap"}, "evaluation": {"num_samples": 4}})
    )[0]
