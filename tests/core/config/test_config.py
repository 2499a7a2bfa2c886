"""pytest tests/core/config/test_config.py — deep merge, unknown keys by name, rules between settings."""

import pytest
from pydantic import BaseModel

from opsd_core.config import RECIPES, CampaignConfig, DataConfig, deep_merge, resolve
from opsd_core.errors import ConfigError
from opsd_core.prompts.builder import render

OWN = {"model": {"source": "some/model"}, "data": {"source": "rows.jsonl"}}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_is_complete_and_survives_json(recipe):
    config = resolve(recipe, OWN if recipe == "base" else {})
    assert CampaignConfig.model_validate_json(config.model_dump_json()) == config


def test_own_model_or_data_never_gets_what_was_tuned_for_the_demo():
    demo, base = resolve("demo"), resolve("base", OWN)
    assert base.model.lora.rank and base.optimizer.learning_rate <= 1e-5 and base.distillation.bound != "none"
    for own in ({"model": OWN["model"]}, {"data": OWN["data"]}, OWN):
        config = resolve("demo", own)
        for section in ("rollout", "optimizer", "evaluation", "execution"):
            assert getattr(config, section) == getattr(base, section) != getattr(demo, section)
    assert resolve("demo", {"data": OWN["data"]}).model.source == "smollm2"
    assert resolve("demo", {"model": OWN["model"]}).data == demo.data
    assert resolve("demo", {"model": {"source": "smollm2", "lora": {"rank": 8}}}).optimizer == demo.optimizer


@pytest.mark.parametrize("missing", ["model", "data"])
def test_a_recipe_for_ones_own_asks_for_model_and_data_by_name(missing):
    with pytest.raises(ConfigError, match=f"has no {missing} of its own. Give {missing}.source"):
        resolve("base", {name: value for name, value in OWN.items() if name != missing})


def test_one_nested_override_leaves_its_siblings_alone():
    plain, changed = resolve("tiny"), resolve("tiny", {"rollout": {"temperature": 0.5}})
    assert changed.rollout.temperature == 0.5
    assert changed.rollout.model_copy(update={"temperature": plain.rollout.temperature}) == plain.rollout
    assert changed.model_copy(update={"rollout": plain.rollout}) == plain


def test_another_data_source_does_not_inherit_the_arguments_of_the_recipes_task():
    assert resolve("demo").data.options["max_num_candidates"] == 3
    assert resolve("demo", {"data": {"options": {"max_num_candidates": 4}}}).data.options["min_num_candidates"] == 2
    assert resolve("demo", {"data": {"source": "reasoning_gym:gcd"}}).data.options == {}
    assert resolve("demo", {"data": {"source": "reasoning_gym:number_format"}}).data.options["min_n"] == 1


def test_another_data_set_is_not_asked_in_the_words_of_the_recipes_own_task():
    own = {"data": {"source": "train.jsonl"}}
    assert resolve("demo").prompts.student != "{{ question }}"
    assert resolve("demo", own).prompts == resolve("base", OWN).prompts, "two paragraphs would lose one"
    assert resolve("demo", own, {"prompts": {"system": "Think."}}).prompts.system == "Think."


TASK = "All notations.\n\nNow, pick the smallest number of the following candidates: 7.581960e+02 1,756.6 480.782000"


def test_the_demo_shows_numbers_in_one_notation_to_both_sides():
    demo = resolve("demo")
    shown = render("prompts.student", demo.prompts.student, {"question": TASK})
    assert shown.splitlines()[0] == "Now, pick the smallest number of the following candidates: 758.196 1756.600 480.782"
    for answer, told in (("480.78200000000004", "480.782"), ("485.5", "485.500"), ("the last one", "the last one")):
        variables = {"student_prompt": shown, "privileged_context": answer}
        assert f"(The correct final answer is {told}.)" in render("teacher.template", demo.teacher.template, variables)


def test_the_demos_words_for_the_teacher_go_with_a_context_that_has_others():
    shuffled = {"control": True, "teacher": {"context": "shuffled_reference"}}
    assert resolve("demo", shuffled).teacher.template == resolve("demo").teacher.template
    for own in ({"teacher": {"context": "hint"}}, {"data": OWN["data"]}):
        assert resolve("demo", own).teacher.template == ""
    assert resolve("demo", {"model": OWN["model"]}).teacher.template == resolve("demo").teacher.template
    assert resolve("demo", {"teacher": {"context": "hint", "template": "{{ privileged_context }}"}}).teacher.template
    for wrong in ([], {"a": 1}, 3):
        with pytest.raises(ConfigError, match=r"teacher\.context"):
            resolve("demo", {"teacher": {"context": wrong}})


def test_deep_merge_never_changes_its_arguments():
    base, override = {"a": {"b": [1], "c": 2}}, {"a": {"b": [3]}}
    merged = deep_merge(base, override)
    merged["a"]["b"].append(4)
    assert base == {"a": {"b": [1], "c": 2}} and override == {"a": {"b": [3]}}
    assert merged == {"a": {"b": [3, 4], "c": 2}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rollout": {"nprompts": 3}}, r"rollout\.nprompts: unknown key"),
        ({"rolout": {"num_prompts": 3}}, r"rolout: unknown key.*Did you mean rollout\?"),
        ({"optimiser": {"num_steps": 3}}, r"optimiser: unknown key.*Did you mean optimizer\?"),
        ({"learning_rate": 1e-4}, r"Did you mean optimizer\.learning_rate\?"),
        ({"rollout": {"temprature": 1.0}}, r"Did you mean rollout\.temperature\?"),
        ({"rollout": {"temp": 1.0}}, r"Did you mean rollout\.temperature\?"),
        ({"optimizer": {"learning": 1.0}}, r"Did you mean optimizer\.learning_rate\?"),
        ({"num_prom": 3}, r"Did you mean rollout\.num_prompts\?"),
        ({"iter": 3}, r"Did you mean iterations\?"),
        ({"rollout.temperature": 1.0}, r"Settings are nested"),
        ({"rollout": {"num_prompts": 0}}, r"rollout\.num_prompts: .*greater than or equal to 1"),
        ({"optimizer": {"learning_rate": float("nan")}}, r"optimizer\.learning_rate"),
        ({"data": {"grader": "gpt"}}, r"data\.grader.*reasoning_gym.*gpt"),
        ({"teacher": {"context": "none"}}, r"loss and its gradient are 0.*control=true"),
        ({"teacher": {"context": "none", "weights": "previous"}}, r"only an anchor"),
        ({"teacher": {"context": "shuffled_reference"}}, r"control=true"),
        ({"teacher": {"weights": "ema"}}, r"distillation\.targets=online"),
        ({"distillation": {"divergence": "jsd", "beta": 0.01}}, r"beta=0\.01.*100 times more weakly"),
        ({"distillation": {"divergence": "reverse_kl", "top_k": 4}}, r"top_k >= 8"),
        (
            {"execution": {"microbatch_tokens": 16}, "rollout": {"max_completion_length": 17}},
            r"not even one completion fits",
        ),
        ({"data": {"validation_fraction": 0.5, "test_fraction": 0.5}}, r"no items to train on"),
        ({"data": {"source": "rows.jsonl", "columns": {"answer": ""}}}, r"data\.columns\.answer is empty"),
        ({"name": "../escape"}, r"name: .*pattern"),
    ],
)
def test_bad_configurations_are_refused_with_field_and_reason(overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", overrides)


def test_unknown_recipe_names_the_ones_that_exist():
    with pytest.raises(ConfigError, match=r"recipe='tinny' does not exist\. Available: .*tiny"):
        resolve("tinny")
    with pytest.raises(ConfigError, match="Did you mean 'tiny'"):
        resolve("tinny")


def test_null_configuration_is_allowed_as_a_declared_control():
    assert resolve("tiny", {"teacher": {"context": "none"}, "control": True}).control


def sections(model: type[BaseModel]):
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


@pytest.mark.parametrize("section", sections(CampaignConfig), ids=lambda section: section.__name__)
def test_every_field_is_described_and_every_number_bounded(section):
    for name, field in section.model_fields.items():
        assert field.description and field.description.endswith((".", ")")), name
        if field.annotation in (int, float):
            assert field.metadata, f"{name} has no bound"


def test_only_settings_are_silent_in_identities_and_only_where_they_change_nothing():
    """What a task's own options are called is no matter."""
    options = {"attempt": "right_first", "keep_per_prompt": "all"}
    data = DataConfig(source="reasoning_gym:chain_sum").model_copy(update={"options": options})
    assert data.identity()["options"] == options
    assert "grader_function" not in data.identity() and "grader_function" in data.model_dump()
    plain, asking = (resolve("tiny", {"rollout": {"group_size": 2, **more}}) for more in ({}, {"refill": {"share": 0.5}}))
    assert "refill" not in plain.deciding()["rollout"] and asking.deciding()["rollout"]["refill"]["share"] == 0.5
    kept = resolve("tiny", {"rollout": {"group_size": 2}, "filter": {"keep_per_prompt": "random"}})
    assert "keep_per_prompt" not in plain.filter.identity() and kept.filter.identity()["keep_per_prompt"] == "random"


def test_sections_within_sections_leave_out_what_is_silent():
    guards = [{"suite": "plain_text", "max_drop": 0.1}]
    (guard,) = resolve("tiny", {"promotion": {"guards": guards}}).deciding()["promotion"]["guards"]
    assert "source" in guard["data"] and "grader_function" not in guard["data"]
