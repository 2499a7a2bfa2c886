"""What runs are called, and what they are tagged with: the same from submission to end, however it was submitted."""

from collections.abc import Mapping
from typing import Any

from opsd_core.config import RECIPES
from opsd_core.study import STUDIES

_DEFAULT_RECIPES = {"iterate": "demo", "pretrain": "demo", "study": "tiny", "watch_data": "demo"}
Parameters = Mapping[str, Any]


def run_name(deployment: str, parameters: Parameters) -> str:
    """Such as `demo-seed0`, `pretrain-demo-seed0`, `study-tiny`, `promote demo v3`, `gc`."""
    campaign = campaign_name(deployment, parameters)
    if campaign is None:
        return deployment
    if deployment in ("promote", "rollback"):
        version = parameters.get("version")
        return f"{deployment} {campaign}{f' v{version}' if version else ''}"
    before = "" if deployment == "iterate" or campaign.startswith(f"{deployment}-") else f"{deployment}-"
    if parameters.get("dry_run"):
        return f"{before}{campaign}-dry-run"
    return f"{before}{campaign}-seed{_seed(parameters)}" if deployment in ("iterate", "pretrain") else f"{before}{campaign}"


def run_tags(deployment: str, parameters: Parameters) -> list[str]:
    """The campaign, study or model that a run works on. The deployment's own tag says which kind of run it is."""
    campaign = campaign_name(deployment, parameters)
    return [campaign] if campaign else []


def campaign_name(deployment: str, parameters: Parameters) -> str | None:
    """Name of the campaign, study or model that a run works on; None where it works on none."""
    given = parameters.get("name") or _inner(parameters, "name")
    if given or deployment not in _DEFAULT_RECIPES:
        return str(given) if given else None
    recipe = str(parameters.get("recipe") or _DEFAULT_RECIPES[deployment])
    known: Mapping[str, Parameters] = STUDIES if deployment == "study" else RECIPES
    return str(known.get(recipe, {}).get("name", recipe))


def _seed(parameters: Parameters) -> int:
    recipe = RECIPES.get(str(parameters.get("recipe")), {})
    given = (parameters.get("seed"), _inner(parameters, "seed"), recipe.get("seed"))
    return next((seed for seed in given if seed is not None), 0)


def _inner(parameters: Parameters, name: str) -> Any:
    overrides = parameters.get("overrides")
    return overrides.get(name) if isinstance(overrides, Mapping) else None
