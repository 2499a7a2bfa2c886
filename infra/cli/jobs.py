"""`opsd schedule`, `pretrain`, `study`, `replay` and `gc`: the other deployments, and campaigns that start by themselves."""

from typing import Any

import click

from infra.cli.command import INTERRUPTED, Command
from infra.cli.completion import recipes_and_files, setting_paths

_settings = click.argument("settings", metavar="[key=value]...", nargs=-1, shell_complete=setting_paths)
_watch = click.option("--watch/--no-watch", "watched", default=True, help="Show the progress until it has ended (default).")


@click.command(cls=Command)
@click.argument("what", metavar="FILE|RECIPE", shell_complete=recipes_and_files)
@_settings
@_watch
def pretrain(what: str, settings: tuple[str, ...], watched: bool) -> int:
    """Train on the data's own solutions first.

    A supervised warm start; `opsd run` under the same name starts from what it promotes.

    \b
    Example: opsd pretrain mine.yaml iterations=1
    """
    from infra.cli.settings.request import read_request
    from opsd_core.config import supervised

    request = read_request(what, settings)
    config = supervised(request.checked())
    return _job("pretrain", request.parameters(), watched, config)


@click.command(cls=Command)
@click.argument("what", metavar="[FILE|RECIPE]", default="tiny")
@_settings
@_watch
def study(what: str, settings: tuple[str, ...], watched: bool) -> int:
    """Compare self-distillation with other ways.

    Arms times seeds on one model and one data split, with intervals. key=value, and the lines of FILE, are the study's own (arms,
    seeds, rates, sets, test_items, ...) or any setting of the campaign, for all arms.

    \b
    Examples:
      opsd study tiny 'arms=[base, opsd, sft]' 'seeds=[0, 1]' optimizer.num_steps=20
      opsd study base model.source=models/mine data.source=questions.jsonl
      opsd study mine.yaml 'seeds=[0]'
    """
    from infra.cli.settings.request import asked_study
    from opsd_core.study import StudyConfig, resolve_study

    recipe, given = asked_study(what, settings)
    own = StudyConfig.model_fields.keys() - {"recipe", "overrides"}
    side = given.pop("side", None)
    knobs = {key: given.pop(key) for key in list(given) if key in own}
    resolve_study(recipe, given, knobs)
    parameters = {"recipe": recipe, **knobs, "overrides": given} | ({"side": side} if side is not None else {})
    return _job("study", parameters, watched)


@click.command(cls=Command)
@click.argument("name")
@_settings
@_watch
def replay(name: str, settings: tuple[str, ...], watched: bool) -> int:
    """Train on stored rollouts under another objective.

    Nothing is sampled and NAME stays as it is. key=value are `iterations`, `campaign`, or settings of teacher, distillation,
    token_weights, optimizer and filter.

    \b
    Example: opsd replay demo distillation.divergence=reverse_kl 'iterations=[0]'
    """
    from infra.cli.names import named, registered
    from infra.cli.settings.values import assignments

    given = assignments(settings)
    knobs = {key: given.pop(key) for key in ("iterations", "campaign") if key in given}
    return _job("replay", {"name": registered(named(name).name), **knobs, "overrides": given}, watched)


@click.command(cls=Command)
@click.option("--delete", is_flag=True, help="Delete; without it, only say what would go.")
@click.option(
    "--keep-candidates", type=click.IntRange(1, 1000), default=3, show_default=True, help="Newest candidates per model."
)
@click.option(
    "--min-age-hours", type=click.FloatRange(0, 87600), default=24.0, show_default=True, help="Nothing younger goes."
)
def gc(delete: bool, keep_candidates: int, min_age_hours: float) -> int:
    """Delete what no kept version needs.

    Without --delete nothing is deleted.
    """
    from infra.cli.server import prefect, submit
    from infra.cli.settling import settled

    parameters = {"dry_run": not delete, "keep_candidates": keep_candidates, "min_age_hours": min_age_hours}
    with prefect() as client:
        return settled(client, submit(client, "gc", parameters))


@click.command(cls=Command)
@click.argument("what", metavar="[FILE|RECIPE]", shell_complete=recipes_and_files, required=False)
@_settings
@click.option("--cron", help="Minute hour day month weekday, such as '0 2 * * *'.")
@click.option("--timezone", default="UTC", show_default=True, help="Of --cron.")
@click.option("--new-data", is_flag=True, help="When what lies at data.source has changed.")
@click.option(
    "--every", "minutes", type=click.FloatRange(1, 1440), default=15.0, show_default=True, help="Minutes between looks."
)
@click.option("--off", metavar="NAME", help="Start campaigns of NAME by themselves no more.")
def schedule(
    what: str | None, settings: tuple[str, ...], cron: str | None, timezone: str, new_data: bool, minutes: float, off: str | None
) -> int:
    """Let a campaign start by itself.

    At certain times, or when its data have changed. Campaigns that nobody starts spend one error budget for the model's whole
    life (promotion.alpha_per=model) unless told otherwise. Over unchanged data a campaign finds its finished work and makes
    nothing. Without arguments: what is scheduled. Who is to be told of it: opsd notify.

    \b
    Examples:
      opsd schedule mine.yaml --cron '0 2 * * *' --timezone Europe/Berlin
      opsd schedule mine.yaml data.source=s3://bucket/new.jsonl --new-data
      opsd schedule --off mine
    """
    from infra.cli.command import table
    from infra.cli.server import prefect
    from infra.cli.settings.request import read_request
    from infra.schedules import at_times, every, schedule, scheduled, unschedule
    from opsd_core.config.kinds.sources import check_can_change
    from opsd_core.errors import ConfigError

    if what and not off and bool(cron) == new_data:
        raise ConfigError("say when: --cron for certain times, or --new-data for changed data; not both.")
    when = at_times(cron, timezone) if cron else every(minutes)
    request = read_request(what, settings) if what and not off else None
    config = request.checked() if request else None
    if config and new_data:
        check_can_change(config.data.source)
    with prefect() as client:
        if off:
            click.echo(f"{unschedule(client, off)} schedule(s) of {off} deleted; what runs goes on.")
            return 0
        if request and config:
            schedule(client, config.name, when, request.parameters())
        rows = [(entry.name, entry.occasion, entry.when, "" if entry.active else "paused") for entry in scheduled(client)]
    click.echo(table(rows) or "Nothing starts by itself.")
    return 0


def _job(deployment: str, parameters: dict[str, Any], watched: bool, config: Any = None) -> int:
    """Submit, watch, and print the report; the exit status."""
    from infra.cli.outcome import closing, ending
    from infra.cli.progress import Progress
    from infra.cli.server import prefect
    from infra.cli.watching import submitted
    from infra.summary import newest_report

    run = submitted(deployment, parameters, Progress.of(config) if config else Progress(), watched=watched)
    if run is None:
        return INTERRUPTED
    if not watched:
        return 0
    report = ""
    if not ending(run):
        with prefect() as client:
            report = newest_report(client, run)
    return closing(run, deployment, [report.strip()], report)
