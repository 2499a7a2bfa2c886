"""pytest tests/core/config/test_risks.py — what is allowed and often goes wrong is said."""

import pytest

from opsd_core.config import resolve
from opsd_core.config.rules.risks import risks

SAMPLED = {"distillation": {"divergence": "sampled_token", "targets": "online"}}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (SAMPLED, True),
        (SAMPLED | {"alarms": {"remedy": "end", "max_truncation": None, "max_truncation_growth": None}}, True),
        (SAMPLED | {"alarms": {"remedy": "end"}}, False),
        (SAMPLED | {"alarms": {"remedy": "lower_rate", "max_truncation": None}}, False),
        ({"distillation": {"divergence": "reverse_kl"}, "alarms": {"remedy": "warn"}}, False),
    ],
)
def test_the_sampled_token_alone_needs_a_length_guard(overrides, said):
    found = list(risks(resolve("tiny", overrides)))
    assert [("alarms.remedy" in text and "sampled_token" in text) for text in found] == [True] * said


@pytest.mark.parametrize(("context", "said"), [("other_attempt", True), ("sibling_success", True), ("reference", False)])
def test_what_two_completions_share_is_no_leak(context, said):
    leaks = {"token_weights": {"leak_span": 4}, "rollout": {"group_size": 4}, "teacher": {"context": context}}
    assert [("token_weights.leak_span=4" in text) for text in risks(resolve("tiny", leaks))] == [True] * said
    assert not list(risks(resolve("tiny", leaks, {"token_weights": {"leak_span": 0}})))


def test_a_gate_that_would_refuse_a_policy_for_using_a_tool_is_named():
    asked = {"rollout": {"environment": "calculator"}}
    (said,) = risks(resolve("tiny", asked))
    assert "promotion.max_length_ratio=2.0" in said
    assert not list(risks(resolve("tiny", asked | {"promotion": {"max_length_ratio": 6.0}})))


def test_no_recipe_takes_the_risk():
    assert not list(risks(resolve("tiny"))) and not list(risks(resolve("demo")))
