"""`opsd check` and `opsd run`: a campaign from a recipe or a file."""

from typing import TYPE_CHECKING

import click

from infra.cli.command import INTERRUPTED, Command
from infra.cli.completion import recipes_and_files, setting_paths

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from opsd_core.config import CampaignConfig

@click.command(cls=Command)
@click.argument("what", metavar="FILE|RECIPE", shell_complete=recipes_and_files)
@click.argument("settings", metavar="[key=value]...", nargs=-1, shell_complete=setting_paths)
def check(what: str, settings: tuple[str, ...]) -> int:
    """Say what a campaign would do, and try it.

    The dry run loads model and data, sends a few prompts through every step and says what both sides read, whether there is a
    signal to learn from, and how long an iteration will take. Nothing is registered. Exit status 1 when something is wrong.

    \b
    Examples:
      opsd check tiny
      opsd check mine.yaml rollout.temperature=0.8
    """
    from infra.cli.progress import Progress
    from infra.cli.settings.request import read_request
    from infra.cli.watching import submitted

    request = read_request(what, settings)
    config = request.checked()
    click.echo(plan(config, request.recipe))
    run = submitted("iterate", request.parameters() | {"dry_run": True}, Progress.of(config), watched=True)
    return INTERRUPTED if run is None else _checked(run)


@click.command(cls=Command)
@click.argument("what", metavar="FILE|RECIPE", shell_complete=recipes_and_files)
@click.argument("settings", metavar="[key=value]...", nargs=-1, shell_complete=setting_paths)
@click.option("--watch/--no-watch", "watched", default=True, help="Show the progress until it has ended (default).")
def run(what: str, settings: tuple[str, ...], watched: bool) -> int:
    """Run a campaign and watch it.

    A new version of the model is promoted only when it is really better.

    FILE is YAML, TOML or JSON: settings as docs/configuration.md names them, and `recipe` (default: base). Paths in it are
    absolute or relative to the file; ~ and ${NAME} are filled in. key=value settings come last.

    Exit status: 0 when the campaign completed, promoted or not; 1 when it failed or was refused; 130 after Ctrl-C, which ends the
    watching and not the campaign.

    \b
    Examples:
      opsd run demo
      opsd run tiny iterations=3 name=mine teacher.temperature=0.8
      opsd run mine.yaml optimizer.learning_rate=1e-5 --no-watch
    """
    from infra.cli.outcome import closing, verdict_lines
    from infra.cli.progress import Progress
    from infra.cli.settings.request import read_request
    from infra.cli.watching import submitted

    request = read_request(what, settings)
    config = request.checked()
    progress = Progress.of(config)
    ended = submitted("iterate", request.parameters(), progress, watched=watched)
    if ended is None:
        return INTERRUPTED
    if not watched:
        return 0
    completed = ended.state is not None and ended.state.is_completed()
    latest = progress.reports[-1].markdown if progress.reports else ""
    return closing(ended, "iterate", verdict_lines(config.name, progress) if completed else [], latest)


def plan(config: "CampaignConfig", recipe: str) -> str:
    """What a campaign is going to do, in a few lines."""
    sampled = config.rollout.num_prompts * config.rollout.group_size
    refill = config.rollout.refill
    again = f"; up to {refill.max_rounds} times more until {refill.share:.0%} have a right one" if refill.share else ""
    trained = config.optimizer.num_steps * config.optimizer.batch_size
    adapters = f"adapters of rank {config.model.lora.rank}" if config.model.lora.rank else "all weights"
    rows = {
        "campaign": f"{config.name} (recipe {recipe}), {config.iterations} iteration(s), seed {config.seed}",
        "model": f"{config.model.source}, {adapters}, {config.model.dtype} on {config.model.device}",
        "data": f"{config.data.source}, graded by {config.data.grader}",
        "samples": f"{sampled} completions of {config.rollout.num_prompts} prompts, at most "
        f"{config.rollout.max_completion_length} tokens, temperature {config.rollout.temperature:g}{again}",
        "teacher": config.teacher.in_words,
        "training": f"{config.optimizer.num_steps} steps of {config.optimizer.batch_size} completions ({trained} in all), "
        f"learning rate {config.optimizer.learning_rate:g}, {config.distillation.divergence}",
        "evaluation": f"{config.evaluation.num_items} held-out items",
        "promotion": f"{config.promotion.mode}",
    }
    return "\n".join(f"{name:<11} {text}" for name, text in rows.items())


def _checked(ended: "FlowRun") -> int:
    from infra.cli.outcome import ending
    from infra.cli.server import prefect
    from infra.summary import newest_report

    if why := ending(ended):
        click.echo(f"opsd: {why}", err=True)
        return 1
    with prefect() as client:
        report = newest_report(client, ended)
    click.echo(f"\n{report.strip()}")
    return 1 if "**Problem:**" in report else 0
