"""What the shell offers after a command: recipes, settings files and the paths of settings."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel


def recipes_and_files(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Recipes and settings files that begin so; any path where there is none."""
    from infra.cli.settings.values import SUFFIXES
    from opsd_core.config import RECIPES

    try:
        near = sorted(Path(begun).parent.glob("*") if "/" in begun else Path().glob("*"))
    except OSError:
        near = []
    files = [str(path) for path in near if path.suffix in SUFFIXES and str(path).startswith(begun)]
    found = [name for name in sorted(RECIPES) if name.startswith(begun)] + files
    return [CompletionItem(name) for name in found] or [CompletionItem(begun, type="file")]


def setting_paths(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Settings of a campaign that begin so, as `path=`."""
    from opsd_core.config import CampaignConfig

    return [CompletionItem(f"{path}=") for path in _paths(CampaignConfig, "") if path.startswith(begun)]


def _paths(model: "type[BaseModel]", prefix: str) -> "Iterator[str]":
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and hasattr(kind, "model_fields"):
            yield from _paths(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
