"""What the shell offers after a command: recipes, settings files and the paths of settings."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem


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
    from opsd_core.config.refusals import paths_of

    known = list(paths_of(CampaignConfig))
    sections = {path.rpartition(".")[0] for path in known}
    return [CompletionItem(f"{path}=") for path in known if path not in sections and path.startswith(begun)]
