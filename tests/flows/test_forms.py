"""pytest tests/flows/test_forms.py — forms offer every setting, take what the configuration takes, and preset nothing."""

import json

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.forms import KNOBS, campaign_form, chosen
from flows.gc import gc
from flows.iterate import iterate
from flows.pretrain import pretrain
from flows.promote import promote, rollback
from flows.replay import replay
from flows.study import study
from flows.watch_data import watch_data
from opsd_core.config import RECIPES, resolve
from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.refusals import paths_of
from opsd_core.study import STUDIES, StudyConfig

FLOWS = {flow.fn.__name__: flow for flow in (gc, iterate, pretrain, promote, rollback, replay, study, watch_data)}
CAMPAIGNS = {"model": {"source": "tiny"}, "data": {"source": "tiny:addition"}}


def accepts(flow, **parameters):
    """Whether Prefect's server lets a run of these parameters wait in a queue; raises with its reason."""
    validate(parameters, flow.parameters.model_dump(), raise_on_error=True)
    return True


def parts(schema):
    """A schema and all schemas inside it."""
    yield schema
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    inner += [schema[name] for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)]
    for part in inner:
        yield from parts(part)


@pytest.mark.parametrize("name", FLOWS)
def test_no_field_is_preset_and_each_says_what_it_is(name):
    schema = FLOWS[name].parameters.model_dump()
    assert not any("default" in part or "$ref" in part for part in parts(schema))
    assert all(field["description"] for field in schema["properties"].values())
    assert {"type": "null"} not in [kind for field in schema["properties"].values() for kind in field.get("anyOf", ())]


def test_every_setting_is_a_field_with_its_description_and_no_other_name_is():
    def fields(schema, prefix=""):
        for name, part in schema.get("properties", {}).items():
            assert part["title"] == name and part["description"]
            yield f"{prefix}{name}"
            yield from fields(part, f"{prefix}{name}.")

    whole = campaign_form()
    lists = ("rehearsal.data.", "promotion.guards.", "teacher.members.")
    listed = {path for path in paths_of(CampaignSettings) if not path.startswith(lists)}
    assert set(fields(whole)) == listed
    assert all(part["additionalProperties"] is False for part in parts(whole) if "properties" in part)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_configuration_holds_is_accepted(recipe):
    given = CAMPAIGNS if recipe == "base" else {}
    whole = json.loads(resolve(recipe, given).model_dump_json())
    assert accepts(iterate, recipe=recipe, overrides=whole) and accepts(iterate, overrides=RECIPES[recipe])


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"optimiser": {}}, "'optimiser' was unexpected"),
        ({"optimizer": {"schedule": "cosin"}}, "'cosin' is not one of"),
        ({"teacher": {"peer_gate": "off"}}, "'peer_gate' was unexpected"),
        ({"data": {"columns": {"anser": "a"}}}, "'anser' was unexpected"),
        ({"rehearsal": {"data": [{"sources": "a"}]}}, "'sources' was unexpected"),
        ({"rollout": {"temperature": 0}}, "0 is less than or equal to the minimum of 0"),
        ({"rollout": {"temperature": "hot"}}, "'hot' is not valid"),
        ({"rollout": {"num_prompts": 1.5}}, "1.5 is not valid"),
        ({"rollout": []}, "is not valid"),
        ({"name": "Not A Name"}, "does not match"),
    ],
)
def test_what_cannot_be_is_refused_at_submission(overrides, reason):
    for flow in (iterate, pretrain, study):
        with pytest.raises(ValidationError, match=reason):
            accepts(flow, overrides=overrides)


def test_bounds_and_choices_are_those_of_the_configuration():
    for path in ("iterations", "rollout.num_prompts", "optimizer.learning_rate"):
        name = next(knob for knob, setting in KNOBS.items() if setting == path)
        with pytest.raises(ValidationError, match="minimum"):
            accepts(iterate, **{name: 0})
    assert iterate.parameters.properties["grader"]["enum"][0] == "auto"
    with pytest.raises(ValidationError, match="'model' was unexpected"):
        accepts(replay, name="demo", overrides={"model": {"source": "x"}})
    with pytest.raises(ValidationError, match="'opsdd' does not match"):
        accepts(study, arms=["opsd:64", "ema.partial", "opsdd"])


@pytest.mark.parametrize("recipe", STUDIES)
def test_what_a_study_holds_is_accepted(recipe):
    kept = {name: value for name, value in STUDIES[recipe].items() if name in study.parameters.properties and name != "recipe"}
    assert accepts(study, recipe=recipe, **json.loads(json.dumps(kept)))


def test_every_setting_of_a_study_has_a_field():
    """`opsd study` sends each as a parameter of its own."""
    assert study.parameters.properties.keys() - {"side"} == StudyConfig.model_fields.keys()


def test_descriptions_say_what_stands_where_nobody_touches_a_field():
    said = {name: field["description"] for name, field in iterate.parameters.properties.items()}
    prompts = "Untouched: default 64, base 800, demo 384, opsd_gsm8k 800, tiny 1600, published methods their own."
    assert said["num_prompts"].endswith(prompts)
    assert "Untouched: demo smollm2, opsd_gsm8k Qwen/Qwen3-1.7B, tiny tiny." in said["model"]
    assert "relative to the project folder" in said["model"]


def test_knobs_become_nested_settings():
    given = {"iterations": 1, "model": "m", "columns": {"question": "q"}, "data": "d", "seed": None, "recipe": "tiny"}
    nested = {"iterations": 1, "model": {"source": "m"}, "data": {"source": "d", "columns": {"question": "q"}}}
    assert chosen(given) == nested
    assert set(KNOBS) <= set(iterate.parameters.properties) & set(pretrain.parameters.properties)
