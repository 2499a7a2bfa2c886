"""pytest tests/core/config/test_effects.py — a setting that nothing reads is named when a campaign starts."""

import re
from collections.abc import Iterator

import pytest
from pydantic.fields import FieldInfo

from opsd_core.config import RECIPES, CampaignConfig, resolve
from opsd_core.config.rules.effects import READ_WHEN, settings_without_effect, unread


def fields(section: type = CampaignConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def test_every_setting_whose_description_says_only_has_a_condition_and_every_condition_a_setting():
    described = dict(fields())
    assert {path for path, field in described.items() if re.search(r"\bonly\b", field.description)} <= set(READ_WHEN)
    assert set(READ_WHEN) <= set(described)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"distillation": {"skew": 0.3}}, "distillation.skew"),
        ({"distillation": {"beta": 0.3}}, "distillation.beta"),
        ({"distillation": {"opsa_fraction": 0.3}}, "distillation.opsa_fraction"),
        ({"distillation": {"entropy_width": 0.3}}, "distillation.entropy_width"),
        ({"distillation": {"top_k_of": "teacher"}}, "distillation.top_k_of"),
        ({"distillation": {"bound": "none", "bound_threshold": 2.0}}, "distillation.bound_threshold"),
        ({"distillation": {"gold_coefficient": 2.0}}, "distillation.gold_coefficient"),
        ({"distillation": {"scale_by_temperature_squared": True}}, "distillation.scale_by_temperature_squared"),
        ({"distillation": {"targets": "online", "top_k": 9}}, "distillation.top_k"),
        ({"teacher": {"ema_decay": 0.5}}, "teacher.ema_decay"),
        ({"teacher": {"min_agreement": 0.9}}, "teacher.min_agreement"),
        ({"teacher": {"context_fraction": 0.9}}, "teacher.context_fraction"),
        ({"token_weights": {"position_floor": 0.5}}, "token_weights.position_floor"),
        ({"token_weights": {"entropy": "top", "entropy_beta": 2.0}}, "token_weights.entropy_beta"),
        ({"token_weights": {"importance_clip": 3.0}}, "token_weights.importance_clip"),
        ({"evaluation": {"temperature": 0.6}}, "evaluation.temperature"),
        ({"curriculum": {"easy_power": 2.0}}, "curriculum.easy_power"),
        ({"curriculum": {"length_growth": 3.0}}, "curriculum.length_growth"),
        ({"promotion": {"approval_hours": 1.0}}, "promotion.approval_hours"),
        ({"model": {"lora": {"alpha": 16.0}}}, "model.lora.alpha"),
        ({"optimizer": {"final_fraction": 0.5}}, "optimizer.final_fraction"),
        ({"rehearsal": {"coefficient": 2.0}}, "rehearsal.coefficient"),
        ({"alarms": {"rate_factor": 0.1}}, "alarms.rate_factor"),
        ({"filter": {"min_gain": 0.1}}, "filter.min_gain"),
        ({"rollout": {"reference_completion": "{{ answer }}."}}, "rollout.reference_completion"),
        ({"distillation": {"divergence": "opsa"}, "teacher": {"temperature": 0.5}}, "teacher.temperature"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_changed_setting_that_nothing_reads_is_named_with_what_would_read_it(overrides, named):
    warnings = [text for text in settings_without_effect(resolve("tiny", overrides)) if text.startswith(f"{named}=")]
    assert len(warnings) == 1 and re.search(r"has no effect: it is read only with .+\.$", warnings[0])


def test_a_setting_that_some_iteration_reads_is_not_named():
    changed = {"teacher": {"context_fraction": 0.9}}
    later = {"curriculum": {"schedules": {"teacher.context": ["reference", "hint"]}}}
    assert "teacher.context_fraction" not in unread(resolve("tiny", changed, later))
    assert "teacher.context_fraction" in unread(resolve("tiny", changed))


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_shipped_recipes_set_nothing_in_vain(recipe):
    own = {"model": {"source": "some/model"}, "data": {"source": "rows.jsonl"}}
    assert not list(settings_without_effect(resolve(recipe, own if recipe == "base" else {})))
