"""What the forms of the deployments offer: fields generated from the configuration, each with its rule, default and recipes.

The JSON schema of a deployment is what Prefect's form shows and what Prefect's server holds a run against before it waits in
a queue: an unknown name, a word that is no choice and a number out of bounds are refused at submission. No field has a
default, so that a field that nobody touches submits nothing, and the recipe's value stands.
"""

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, WithJsonSchema
from pydantic_core import MISSING

from opsd_core.config import RECIPES
from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.recipes import inside
from opsd_core.config.recipes_papers import PAPERS

KNOBS = {
    "name": "name",
    "model": "model.source",
    "data": "data.source",
    "columns": "data.columns",
    "grader": "data.grader",
    "prompts": "prompts",
    "iterations": "iterations",
    "num_prompts": "rollout.num_prompts",
    "num_steps": "optimizer.num_steps",
    "learning_rate": "optimizer.learning_rate",
    "seed": "seed",
}
"""Parameters of the campaign deployments -> the setting that each one is."""
_SHORT = 40
"""Characters of a value that a description repeats."""
_STARTS = sorted(RECIPES.keys() - PAPERS.keys())
_ABSENT = object()
Schema = dict[str, Any]


def form_signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a flow's function as a form shows it: what may be left out has no default, and null is no entry."""
    known = inspect.signature(function, eval_str=True)
    return known.replace(parameters=[_as_field(parameter) for parameter in known.parameters.values()])


def _as_field(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.default is parameter.empty:
        return parameter
    return parameter.replace(default=MISSING, annotation=_field_type(parameter.annotation))


def _field_type(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        inner, *rest = get_args(annotation)
        return Annotated[_field_type(inner), *rest]
    if annotation is bool:
        return Annotated[bool, WithJsonSchema({"enum": [True, False]})]
    if get_origin(annotation) in (Union, UnionType):
        return Union[*(part for part in get_args(annotation) if part is not NoneType)]
    return annotation


def settings(sections: Collection[str] = ()) -> WithJsonSchema:
    """Annotation of a parameter that takes any setting of the campaign, nested; `sections`: only these."""
    whole = campaign_form()
    kept = {name: part for name, part in whole["properties"].items() if not sections or name in sections}
    return WithJsonSchema(whole | {"properties": kept})


def setting(path: str, model: type[BaseModel] = CampaignSettings, recipes: Mapping[str, Schema] | None = None) -> WithJsonSchema:
    """Annotation of a parameter that is one setting, or one section, of `model`."""
    schema = campaign_form() if model is CampaignSettings else form_of(model, recipes or {})
    for part in path.split("."):
        schema = schema["properties"][part]
    return WithJsonSchema(schema)


def chosen(given: Mapping[str, Any]) -> Schema:
    """The settings that parameters of KNOBS stand for; None is no choice, and other names are left out."""
    tree: Schema = {}
    for name, path in KNOBS.items():
        if given.get(name) is not None:
            section, leaf = inside(tree, path)
            section[leaf] = given[name]
    return tree


@lru_cache(maxsize=1)
def campaign_form() -> Schema:
    """`form_of` all settings of a campaign. Never change it."""
    return form_of(CampaignSettings, {name: RECIPES[name] for name in _STARTS}, frozenset(PAPERS))


def form_of(model: type[BaseModel], recipes: Mapping[str, Schema], others: Collection[str] = ()) -> Schema:
    """The JSON schema of a class of settings, in one piece: unknown names are refused, nothing is required or has a default.

    Descriptions say what a setting is where nobody gives one: its default, and its value in `recipes`; of `others` only that
    they have one of their own.
    """
    schema = model.model_json_schema()
    return _Form(schema.get("$defs", {}), recipes, others).of(schema)


def untouchable(schema: Schema) -> Schema:
    """`schema` so that Prefect's form submits nothing for it until somebody touches it.

    The form's switch for a boolean says false by itself, so it becomes a choice; its editor for an object of any names says {}
    by itself, so it stands behind a choice whose first entry takes nothing.
    """
    kinds = [part.get("type") for part in schema.get("anyOf", [schema])]
    words = [{"boolean": [True, False], "null": [None]}.get(kind) for kind in kinds]
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "type")}
    if "boolean" in kinds and all(words):
        return rest | {"enum": [value for group in words for value in group]}
    if schema.get("type") == "object" and "properties" not in schema:
        said = {name: rest.pop(name) for name in ("description", "title") if name in rest}
        return {"anyOf": [{"enum": [], "title": "untouched"}, {"type": "object", "title": "object", **rest}], **said}
    return schema


@dataclass(frozen=True)
class _Form:
    """One class's JSON schema on its way to a form."""

    parts: Mapping[str, Schema]
    recipes: Mapping[str, Schema]
    """Whose values are shown."""
    others: Collection[str] = ()
    """Recipes whose values are only said to be their own."""

    def of(self, schema: Schema, path: str = "", title: str = "") -> Schema:
        """`schema` without references, defaults and required names."""
        if "$ref" in schema:
            schema = self.parts[schema["$ref"].rpartition("/")[2]] | {k: v for k, v in schema.items() if k != "$ref"}
        kept = {name: value for name, value in schema.items() if name not in ("$defs", "default", "required", "title")}
        for name in ("anyOf", "prefixItems"):
            if name in kept and not all("type" in part for part in kept[name]):
                kept[name] = [self.of(part) for part in kept[name]]
        for name in ("items", "additionalProperties"):
            if isinstance(kept.get(name), dict):
                kept[name] = self.of(kept[name])
        kept = untouchable(kept)
        if "properties" in kept:
            inner = kept["properties"].items()
            kept["properties"] = {name: self.of(part, f"{path}.{name}".lstrip("."), name) for name, part in inner}
        elif path:
            kept["description"] = self._described(kept.get("description", ""), path, schema.get("default", _ABSENT))
        return kept | ({"title": title} if title else {})

    def _described(self, text: str, path: str, default: Any) -> str:
        values = {} if default is _ABSENT else {"default": default}
        found = {recipe: _at(path, recipe_values) for recipe, recipe_values in self.recipes.items()}
        values |= {recipe: value for recipe, value in found.items() if value not in (_ABSENT, default)}
        shown = [f"{name} {_shown(value)}" for name, value in values.items() if len(_shown(value)) <= _SHORT]
        common = (_ABSENT, default, values.get("tiny", default))
        if any(_at(path, RECIPES[name]) not in common for name in self.others):
            shown.append("published methods their own")
        return f"{text} Untouched: {', '.join(shown)}." if shown else text


def _at(path: str, values: Any) -> Any:
    for part in path.split("."):
        values = values.get(part, _ABSENT) if isinstance(values, Mapping) else _ABSENT
    return values


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if value in ("", [], {}, ()):
        return "empty"
    return json.dumps(value) if not isinstance(value, str) or " " in value else value
