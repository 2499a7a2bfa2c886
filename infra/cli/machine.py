"""`opsd up`, `down`, `login`, `notify` and `doctor`: the servers of this machine, whom they tell, and what is missing."""

import os
import sys

import click

from infra.cli.command import Command


@click.command()
@click.option("--worker/--no-worker", default=True, help="Also the deployments and a worker (default).")
def up(worker: bool) -> int:
    """Start the servers and a worker on this machine.

    Servers that the environment names elsewhere are used as they are.
    """
    from infra.access.servers import is_private, login_lines
    from infra.lifecycle import up as start
    from infra.state import open_state, state_root

    state = open_state(state_root())
    started = start(state, os.environ, worker=worker)
    click.echo(f"Started: {', '.join(started)}." if started else "Everything runs already; nothing was started.")
    urls = state.urls | state.external(os.environ)
    click.echo(f"  Prefect  {urls['prefect'].removesuffix('/api').rpartition('@')[2]}")
    click.echo(f"  MLflow   {urls['mlflow'].rpartition('@')[2]}")
    click.echo("\n".join([*login_lines(state, os.environ, show=is_private(sys.stdout)), "Next: opsd run demo"]))
    return 0


@click.command()
def login() -> int:
    """Show links that log you in to Prefect and MLflow.

    They hold the passwords of the servers of this machine.
    """
    from infra.access.servers import login_lines
    from infra.lifecycle import status
    from infra.state import open_state, state_root

    state = open_state(state_root())
    lines = login_lines(state, os.environ, show=True)
    click.echo("\n".join(lines or ["Prefect and MLflow are not this machine's own: ask whoever runs them."]))
    if stopped := [r.name for r in status(state, os.environ) if r.name in ("prefect", "mlflow") and r.state == "stopped"]:
        click.echo(f"They lead nowhere until the servers run ({' and '.join(stopped)}: stopped). Start them: opsd up", err=True)
    return 0


@click.command()
def down() -> int:
    """Stop the servers and the worker of this machine.

    Runs under way resume after the next `opsd up`; cancel those that should not.
    """
    from infra.lifecycle import down as stop
    from infra.state import open_state, state_root

    stopped = stop(open_state(state_root()))
    click.echo(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")
    return 0


@click.command(cls=Command)
@click.argument("target", metavar="webhook|slack|TYPE/NAME|off")
@click.argument("url", required=False, envvar="OPSD_NOTIFY_URL")
def notify(target: str, url: str | None) -> int:
    """Tell somebody when something happens.

    When an approval waits, a version is promoted or refused by a guard, an alarm sounds, a run crashes for good or fails. The
    target is a webhook, which gets JSON, Slack, or a block made in Prefect's page, such as Sendgrid Email. A URL in
    OPSD_NOTIFY_URL stands in no list of processes. Said again, nothing changes.

    \b
    Examples:
      opsd notify webhook https://example.org/hook
      OPSD_NOTIFY_URL=https://hooks.slack.com/... opsd notify slack
      opsd notify sendgrid-email/ops
      opsd notify off
    """
    from infra.cli.server import prefect
    from infra.notify import OFF, OWN, notify, stop_notifying

    said = click.get_current_context().get_parameter_source("url") == click.core.ParameterSource.COMMANDLINE
    with prefect() as client:
        if target == OFF:
            click.echo(f"Nobody is told any more; {stop_notifying(client)} automation(s) deleted.")
            return 0
        names = notify(client, target, url if said or target in OWN else None)
    click.echo("\n".join([f"{target} is told; in Prefect's page, Automations:", *(f"  {name}" for name in names)]))
    return 0


@click.command(cls=Command)
def doctor() -> int:
    """Check this machine and the servers.

    Versions, cores, memory, disk, GPU, ports, servers, credentials and worker, each with its remedy. Exit status 1 when one
    fails.
    """
    from infra.cli.checks import all_checks

    failed = 0
    for found in all_checks(os.environ):
        mark = {True: "ok  ", False: "FAIL", None: "note"}[found.passed]
        click.echo(f"{mark} {found.name:<12} {found.text}")
        if found.passed is not True and found.remedy:
            click.echo(f"     {'':<12} -> {found.remedy}")
        failed += found.passed is False
    click.echo(f"\n{failed} problem(s)." if failed else "\nNo problem found.")
    return 1 if failed else 0
