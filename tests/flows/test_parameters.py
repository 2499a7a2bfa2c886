"""pytest tests/flows/test_parameters.py — parameters that do not fit are refused by name, in words, within seconds."""

import math
import time

import pytest

from flows import stages
from flows.gc import gc
from flows.iterate import iterate
from flows.pretrain import pretrain
from flows.promote import promote, rollback
from flows.replay import replay
from flows.study import study
from flows.watch_data import watch_data
from opsd_core.errors import OpsdError

FLOWS = {flow.fn.__name__: flow for flow in (gc, iterate, pretrain, promote, replay, study, watch_data)}
ENOUGH = {"promote": {"name": "absent", "reason": "tests"}, "replay": {"name": "absent"}}
VALUES = {"null": None, "list": [None], "object": {"a": {"$ref": None}}, "reference": {"$ref": "x"}, "text": "{{"}
VALUES |= {"nan": math.nan, "huge": 10**400}


def refused(flow, parameters, message):
    assert stages.preflight, "loaded here, so that its libraries are not in the seconds that a refusal takes"
    begun = time.monotonic()
    with pytest.raises(OpsdError, match=message) as caught:
        flow(**parameters)
    assert time.monotonic() - begun < 15 and "Input should" not in str(caught.value)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", sorted(FLOWS))
def test_a_value_of_any_kind_is_validated_or_refused_by_its_parameter(name, value):
    """Without a run: what Prefect asks the flow before it begins one."""
    flow = FLOWS[name]
    for parameter in flow.parameters.properties:
        given = {**ENOUGH.get(name, {}), parameter: VALUES[value]}
        try:
            assert flow.validate_parameters(given)
        except OpsdError as error:
            assert f"parameters of opsd/{name} are refused: " in str(error) and "Input should" not in str(error)


@pytest.mark.parametrize(
    ("flow", "parameters", "message"),
    [
        (iterate, {"overrides": None}, r"overrides: must be an object of names and values \(value: null\)"),
        (iterate, {"recipe": "tinny"}, r"recipe: must be 'base', .*\(value: 'tinny'\)"),
        (iterate, {"zzz": 1}, "does not take these parameters: .*zzz.* It has recipe, name"),
        (iterate, {"recipe": "tiny", "overrides": {"model": None}}, r"model: must be an object of settings.*\(value: null\)"),
        (iterate, {"overrides": {"a": {"$ref": None}}}, "parameters of opsd/iterate are refused"),
        (iterate, {"recipe": "tiny", "overrides": {"model": {"source": "models:/absent@best"}}}, "model.source=models:/absent"),
        (iterate, {"recipe": "tiny", "overrides": {"model": {"source": "s3://opsd/models/a/b"}}}, "model.source: there is no"),
        (iterate, {"recipe": "tiny", "overrides": {"prompts": {"student": "{{ x }}"}}}, r"prompts.student=.*there is no x"),
        (pretrain, {"recipe": "tiny", "overrides": {"model": []}}, "model: must be an object of settings"),
        (promote, {"name": "absent", "reason": "x"}, "'absent' has no candidate"),
        (promote, {"name": "absent", "reason": "x", "version": 10**12}, "read absent version 1000000000000: there is none"),
        (promote, {"name": "A b", "reason": ""}, "name: must match pattern.*reason: must have at least 1 character"),
        (rollback, {"name": "absent", "reason": "x"}, "absent has no earlier champion"),
        (gc, {"keep_candidates": 0}, r"keep_candidates: must be greater than or equal to 1 \(value: 0\)"),
        (replay, {"name": "absent"}, "list the versions of absent: there is none; check its name"),
        (study, {"arms": "opsd"}, r"arms: must be a list \(value: 'opsd'\)"),
        (study, {"rates": {"opsd": [None]}}, "rates.opsd.0: must be a number"),
        (study, {"overrides": {"data": 3}}, "data: must be an object of settings"),
        (watch_data, {"recipe": "tiny"}, "data.source=tiny:addition has no state that could change"),
        (watch_data, {"recipe": "tiny", "overrides": {"data": {"source": "/absent.jsonl"}}}, "data.source.*absent.jsonl"),
        (watch_data, {"overrides": {"optimiser": {}}}, "optimiser.*Did you mean optimizer"),
    ],
)
def test_a_run_that_cannot_be_is_refused_at_once(stack, flow, parameters, message):
    refused(flow, parameters, message)
