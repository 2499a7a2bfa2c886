"""`opsd recipes` and `opsd config`: what there is to choose from, and what a choice comes to."""

import json

import click

from infra.cli.command import Command, table
from infra.cli.completion import recipes_and_files, setting_paths


@click.command(cls=Command)
def recipes() -> int:
    """List the recipes of campaigns and studies."""
    from opsd_core.config import RECIPES
    from opsd_core.config.recipes_papers import PAPERS
    from opsd_core.study import STUDIES

    starts = sorted(RECIPES.keys() - PAPERS.keys())
    click.echo("Campaigns (opsd run RECIPE; what one sets: opsd config RECIPE --changed)")
    click.echo(table([(name, _shown(RECIPES[name])) for name in starts], "  "))
    click.echo("\nPublished methods and controls, on the tiny model until another one is named (docs/recipes.md)")
    click.echo(table([(name, _method(PAPERS[name].method)) for name in sorted(PAPERS)], "  "))
    click.echo("\nStudies (opsd study RECIPE)")
    click.echo(table([(name, f"on the recipe {values.get('recipe', '?')}") for name, values in sorted(STUDIES.items())], "  "))
    return 0


def _shown(values: dict) -> str:
    model = values.get("model", {}).get("source", "your model")
    data = values.get("data", {}).get("source", "your data")
    return f"{model} on {data}, {values.get('iterations', 1)} iteration(s)"


def _method(values: dict) -> str:
    teacher, distillation = values.get("teacher", {}), values.get("distillation", {})
    parts = [f"teacher {teacher[key]}" for key in ("weights", "context") if key in teacher]
    return (
        ", ".join([*parts, *(str(distillation[key]) for key in ("divergence",) if key in distillation)])
        or "see docs/recipes.md"
    )


@click.command(cls=Command)
@click.argument("what", metavar="FILE|RECIPE", shell_complete=recipes_and_files)
@click.argument("settings", metavar="[key=value]...", nargs=-1, shell_complete=setting_paths)
@click.option("--changed", is_flag=True, help="Only what is not a default.")
def config(what: str, settings: tuple[str, ...], changed: bool) -> int:
    """Show every setting and where it comes from.

    The output is YAML that `opsd run` reads again; a comment names each value's origin: default, recipe, file or command line.

    \b
    Examples:
      opsd config demo --changed
      opsd config mine.yaml rollout.temperature=0.8 > resolved.yaml
    """
    from infra.cli.settings.request import flat, read_request

    request = read_request(what, settings)
    resolved, origins = request.config().model_dump(mode="json"), request.origins()
    lines, open_sections = [f"recipe: {request.recipe}"], []
    for path, value in flat(resolved):
        origin = _origin(path, origins)
        if changed and origin == "default":
            continue
        *sections, leaf = path.split(".")
        common = 0
        while common < min(len(sections), len(open_sections)) and sections[common] == open_sections[common]:
            common += 1
        lines += [f"{'  ' * depth}{sections[depth]}:" for depth in range(common, len(sections))]
        open_sections = sections
        lines.append(f"{'  ' * len(sections)}{leaf}: {json.dumps(value, ensure_ascii=False)}  # {origin}")
    click.echo("\n".join(lines))
    return 0


def _origin(path: str, origins: dict[str, str]) -> str:
    """Of a setting, or of the object or list that was given as a whole."""
    found = [origin for given, origin in origins.items() if path == given or path.startswith(f"{given}.")]
    return found[-1] if found else "default"
