"""pytest tests/core/config/test_config_fuzz.py — whatever overrides and templates hold, a ConfigError in words."""

import copy
import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from opsd_core.config import RECIPES, CampaignConfig, resolve, supervised
from opsd_core.config.moved import with_present_names
from opsd_core.errors import ConfigError
from opsd_core.prompts.builder import render
from opsd_core.study import STUDIES, StudyConfig, resolve_study

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
MANY = settings(max_examples=6000, deadline=None, suppress_health_check=list(HealthCheck))


def names(model: type[BaseModel]) -> set[str]:
    found = set(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= names(field.annotation)
    return found


KNOWN = sorted(names(CampaignConfig))
TEXTS = st.one_of(
    st.sampled_from(["", "tiny", "models:/", "models:/x@", "s3://", "opsd:", "{{", "{{ x }}", "{{ 1/0 }}", "\x00", "\ud800"]),
    st.text(max_size=12),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([10**400, -1]), st.floats(), TEXTS, st.binary(max_size=3)
)
KEYS = st.one_of(st.sampled_from(KNOWN), st.sampled_from(["", "model.source", "weights", "rollout.num_shards"]), TEXTS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)), max_leaves=8
)
SECTIONS = {
    name: field.annotation
    for name, field in CampaignConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


@st.composite
def near_misses(draw) -> dict:
    """A real setting with a value of any kind: nearer to what users write than a random tree."""
    section = draw(st.sampled_from(sorted(SECTIONS)))
    return {section: {draw(st.sampled_from(sorted(SECTIONS[section].model_fields))): draw(VALUES)}}


OVERRIDES = st.one_of(VALUES, near_misses(), st.dictionaries(st.sampled_from(sorted(CampaignConfig.model_fields)), VALUES))


def holds(call, *arguments) -> None:
    """It works, or it is refused in a paragraph that can be printed; the arguments stay as they are."""
    before = copy.deepcopy(arguments)
    try:
        call(*arguments)
    except ConfigError as error:
        text = str(error)
        assert text.encode() and len(text) < 20_000 and "Input should" not in text and "pydantic" not in text
    assert repr(arguments) == repr(before)


def any_study(recipe, overrides, knob, value) -> None:
    resolve_study(recipe, overrides, {knob: value})


@FEW
@given(st.sampled_from(sorted(RECIPES)), OVERRIDES, OVERRIDES)
def test_any_overrides_give_a_configuration_or_a_config_error(recipe, first, second):
    holds(resolve, recipe, first)
    holds(lambda one, other: supervised(resolve(recipe, one, other)), first, second)


@FEW
@given(
    st.sampled_from([name for name in STUDIES if name != "tiny_teachers"]),
    st.one_of(st.just({}), OVERRIDES),
    st.sampled_from(sorted(StudyConfig.model_fields)),
    VALUES,
)
def test_any_study_gives_a_configuration_or_a_config_error(recipe, overrides, knob, value):
    holds(any_study, recipe, overrides, knob, value)


@FEW
@given(OVERRIDES, OVERRIDES)
def test_any_stored_configuration_is_read_under_todays_names_or_refused(stored, overrides):
    if isinstance(stored, dict):
        renamed = with_present_names(stored)
        holds(resolve, "tiny", renamed, overrides)
        assert "weights" not in renamed and (stored.keys() - {"weights"}) <= renamed.keys()


@pytest.mark.slow
@MANY
@given(st.sampled_from(sorted(RECIPES)), OVERRIDES, OVERRIDES)
def test_thousands_of_overrides_give_a_configuration_or_a_config_error(recipe, first, second):
    holds(lambda one, other: supervised(resolve(recipe, one, other)), first, second)


@pytest.mark.slow
@MANY
@given(st.sampled_from(["tiny", "smollm2"]), OVERRIDES, st.sampled_from(sorted(StudyConfig.model_fields)), VALUES)
def test_thousands_of_studies_give_a_configuration_or_a_config_error(recipe, overrides, knob, value):
    holds(any_study, recipe, overrides, knob, value)


def nest(depth: int, make) -> object:
    tree = 0
    for _ in range(depth):
        tree = make(tree)
    return tree


@pytest.mark.parametrize("section", sorted(SECTIONS))
@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "null"), ([], "[]"), ("text", "'text'"), (3, "3"), (True, "true"), ([{}], "[{}]"), (math.nan, "nan")],
)
def test_a_section_that_is_no_object_is_refused_by_its_name(section, value, said):
    with pytest.raises(ConfigError, match=f"{section}: must be an object of settings.*{re.escape(f'(value: {said})')}$"):
        resolve("tiny", {section: value})
    with pytest.raises(ConfigError, match=f"{section}: must be an object of settings"):
        resolve_study("tiny", {section: value}, {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (None, "overrides=null must be an object"),
        ([], r"overrides=\[\] must be an object"),
        ("tiny", "overrides='tiny' must be an object"),
        ({1: 2}, "key 1, which is no name"),
        ({"model": {None: 2}}, "overrides.model has the key null"),
        ({"model.source": "tiny"}, r'model.source: unknown key.*Settings are nested, as in {"model": {"source": ...}}'),
        ({"rollout": {"num_shards": 3}}, "rollout.num_shards: is now called execution.num_shards"),
        ({"weights": {}}, "weights: is now called token_weights"),
        ({"seed": 1.5}, r"seed: must be a whole number \(value: 1.5\)"),
        ({"seed": "x" * 9999}, r"seed: must be a whole number \(value: 'x{79}\.\.\.\)$"),
        ({"iterations": 10**400}, "iterations: must be less than"),
        ({"data": {"options": {"a": None}}}, r"data.options.a: must be a number, text, true or false \(value: null\)$"),
        ({"teacher": {"peers": "ab"}}, "teacher.peers: must be a list"),
        ({"x" * 9999: 1}, r"x{80}\.\.\. \(9,999 characters\): unknown key"),
        ({f"key{number}": 1 for number in range(999)}, "and 987 more"),
        (nest(3000, lambda tree: {"a": tree}), "nested more than 50 levels"),
        ({"model": nest(3000, lambda tree: [tree])}, "nested more than 50 levels"),
        ({"curriculum": {"schedules": {"rollout.temperature": [None]}}}, "rollout.temperature: must be a number"),
        ({"data": {"encoding": "x" * 9999}}, "data.encoding"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, str) else None,
)
def test_wrong_nesting_and_types_are_named_with_value_and_rule(overrides, message):
    for call in (lambda: resolve("tiny", overrides), lambda: resolve_study("tiny", overrides, {})):
        with pytest.raises(ConfigError, match=message) as caught:
            call()
        assert len(str(caught.value)) < 4000


@pytest.mark.parametrize("recipe", [None, [], {}, 3, "tinny", "\x00"])
def test_a_recipe_that_is_none_names_those_that_are(recipe):
    for call in (lambda: resolve(recipe), lambda: resolve_study(recipe, {}, {})):
        with pytest.raises(ConfigError, match=r"recipe=.*Available: .*tiny"):
            call()


HALF = "\ud800"


@pytest.mark.parametrize(
    "values",
    [{"name": HALF}, {"model": {"source": f"a{HALF}"}}, {HALF: 1}, {"data": {HALF: {}}}, {"promotion": {"guards": [HALF]}}],
)
def test_half_a_character_is_refused_by_its_field_in_text_that_can_be_printed(values):
    for call in (lambda: resolve("tiny", values), lambda: resolve_study("tiny", values, {})):
        with pytest.raises(ConfigError, match="must be text without half characters") as caught:
            call()
        assert str(caught.value).encode()


@pytest.mark.parametrize("knobs", [{"arms": [HALF]}, {"sets": [HALF]}, {"rates": {HALF: [1e-3]}}, {"name": HALF}])
def test_half_a_character_in_a_study_is_refused_by_its_field(knobs):
    with pytest.raises(ConfigError, match=f"{next(iter(knobs))}.*must be text without half|which must be text without half"):
        resolve_study("tiny", {}, knobs)


def test_pretraining_that_breaks_a_rule_is_refused_as_such():
    own = {"model": {"source": "some/model"}, "promotion": {"mode": "manual"}, "teacher": {"context": "concise"}}
    unlabelled = own | {"data": {"source": "rows.jsonl", "columns": {"answer": ""}}}
    with pytest.raises(ConfigError, match=r"pretraining with this configuration is refused.*data.columns.answer"):
        supervised(resolve("base", unlabelled))


NO_MODELS = [
    *("models:/", "models:/x", "models:/x@", "models:/x/0", "models:/x/y", "models:x/1", "models:/@champion", "models://x/1"),
    *("models:/x/1/2", "s3://", "s3:///x", "s3:/b/x", "S3://bucket/x", "s3://b?x/y", "s3://bucket/a//b", "s3://bucket/../x"),
]


@pytest.mark.parametrize("source", ["", " ", "s3://bu cket/x", "a\nb", "x" * 9999, *NO_MODELS])
def test_what_can_be_no_model_is_refused_by_its_field(source):
    with pytest.raises(ConfigError, match=r"model\.source="):
        resolve("tiny", {"model": {"source": source}})
    if source:
        with pytest.raises(ConfigError, match=r"teacher\.source="):
            resolve("tiny", {"teacher": {"weights": "external", "source": source}})
    peers = {"weights": "peers", "peers": ["tiny", source]}
    with pytest.raises(ConfigError, match=r"teacher\.peers\[1\]="):
        resolve("tiny", {"teacher": peers})


@pytest.mark.parametrize("source", ["", "s3://", "s3://bucket", "s3://bucket/", "s3://bucket/folder/", "s3:///x.jsonl", "a\0b"])
def test_what_can_be_no_data_is_refused_by_its_field(source):
    with pytest.raises(ConfigError, match=r"[^.]data\.source="):
        resolve("tiny", {"data": {"source": source}})
    with pytest.raises(ConfigError, match=r"rehearsal\.data\[0\]\.source="):
        resolve("tiny", {"rehearsal": {"share": 0.2, "data": [{"source": source}]}})


@pytest.mark.parametrize(
    "source", ["models:/my model@champion", "models:/x/12", "s3://bucket", "s3://my-bucket/a/b/", "owner/name", "~/m"]
)
def test_an_address_that_can_exist_passes(source):
    assert resolve("tiny", {"model": {"source": source}}).model.source == source.replace("~", str(Path.home()), 1)


@pytest.mark.parametrize("section", ["model", "data"])
def test_a_home_of_nobody_is_refused_by_its_field(section):
    with pytest.raises(ConfigError, match=rf"{section}\.source.*is no path"):
        resolve("tiny", {section: {"source": "~nobody-of-this-name/a"}})


TEMPLATES = {
    "prompts.student": {},
    "teacher.template": {},
    "teacher.system": {},
    "rollout.reference_completion": {"rollout": {"on_policy_fraction": 0.5}},
    "rehearsal.prompts.student": {"rehearsal": {"share": 0.2, "data": [{"source": "tiny:addition"}]}},
}
BROKEN = [
    *("{{", "{{ question", "{% if %}", "{% for x in question %}", "{% endif %}", "{% nosuchtag %}", "{{ question|nofilter }}"),
    *("{{ 1 is nontest }}", "{{" + "(" * 5000, "{{ 9**9**9**9 }}", "{{ question }}" * 20_000),
    "{% for i in question %}" * 30 + "{% endfor %}" * 30,
]


def setting(path: str, value: object) -> dict:
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("field", [*TEMPLATES, "model.chat_template"])
@pytest.mark.parametrize("template", BROKEN, ids=lambda template: template[:24])
def test_a_template_that_cannot_be_compiled_is_refused_with_its_field(field, template):
    with pytest.raises(ConfigError, match=rf"{field}=.*is no template that can be rendered: ") as caught:
        resolve("tiny", setting(field, template), TEMPLATES.get(field, {}))
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("field", TEMPLATES)
def test_a_variable_that_does_not_exist_is_refused_with_those_that_do(field):
    with pytest.raises(ConfigError, match=rf"{field}=.*there is no questoin\. Variables that exist: answer, "):
        resolve("tiny", setting(field, "{{ questoin }}"), TEMPLATES[field])


@pytest.mark.parametrize(
    "template",
    [
        "{{ question.split('\n')[-1] }}{% set x = 2 ** 10 %}{{ x }}",
        "{{ hint|default('') }}{{ question }}",
        "{% if a is defined %}{{ a }}{% endif %}",
        "{% for i in range(3) %}{{ loop.index }}{{ question }}{% endfor %}",
        "no variables at all",
    ],
)
def test_a_template_that_renders_passes(template):
    assert resolve("tiny", {"prompts": {"student": template}}).prompts.student == template


def test_a_chat_template_with_the_tags_of_transformers_passes():
    inner = "{% if loop.last %}{% break %}{% endif %}{% generation %}{{ m.content }}{% endgeneration %}"
    template = "{% for m in messages %}" + inner + "{% endfor %}"
    assert resolve("tiny", {"model": {"chat_template": template}}).model.chat_template == template


@FEW
@given(st.sampled_from(sorted(TEMPLATES)), st.text(alphabet="{}%#|()[].*~'\" 019abquestion-+/\n", max_size=30))
def test_any_text_is_a_template_or_a_config_error(field, template):
    holds(resolve, "tiny", setting(field, "{{" + template))
    holds(resolve, "tiny", setting("model.chat_template", "{%" + template))


@FEW
@given(st.text(alphabet="{}%#|()[].~'\" 019abquestion-+/\n", max_size=30))
def test_any_template_renders_or_gives_a_config_error(template):
    holds(render, "prompts.student", "{{" + template, {"question": "a\n\nb", "answer": "1", "solution": ""})
