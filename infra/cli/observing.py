"""`opsd status`, `opsd logs` and `opsd cancel`."""

import logging
import os
import re
import time
from typing import TYPE_CHECKING

import click

from infra.cli.command import Command, table

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

_EVERY_S = 1.0
OF_THE_MACHINERY = (
    *("Finished in state Completed", "Beginning flow run", "Created task run", "Resuming flow run", "Worker '", "Flow run '"),
    *("Running 1 deployment pull step", "Executing deployment step", "Deployment step '", "All deployment steps", "View at"),
    *("Completed submission of flow run", "Opening process", "Process for flow run", "Downloading flow code"),
    *("Hook '", "Running hook"),
)
"""How lines begin that Prefect writes of itself."""
_PAGE = 200
_MET = re.compile(r"^(?:[\w.]+\.)?(\w+): (.*)", re.MULTILINE)
"""The errors in a traceback, the one that ended it last."""


@click.command(cls=Command)
def status() -> int:
    """Show servers, and runs that have not ended.

    Exit status 1 when a server does not serve.
    """
    from infra.cli.server import active_runs, campaign_of, page_of, prefect
    from infra.lifecycle import status as reports_of
    from infra.services import SERVERS
    from infra.state import open_state, state_root

    reports = reports_of(open_state(state_root()), os.environ)
    rows = [(report.name, report.state, report.url.rpartition("@")[2] or "-") for report in reports]
    click.echo("Servers\n" + table(rows, "  "))
    serving = {report.name for report in reports if report.state in ("running", "external")}
    if "prefect" not in serving:
        click.echo("\nPrefect is not running, so no run can be listed. Start it: opsd up")
        return 1
    with prefect() as client:
        runs = active_runs(client)
    listed = [(run.name, campaign_of(run), run.state_name or "?", str(run.id)[:8], page_of(run)) for run in runs]
    click.echo("\nRuns\n" + (table(listed, "  ") or "  none"))
    for run in runs:
        if run.state and run.state.is_paused():
            version = run.parameters.get("version")
            click.echo(f"{run.name} waits for a person: opsd approve {campaign_of(run)} {version} (or opsd refuse)")
    return 0 if serving.issuperset(SERVERS) else 1


@click.command(cls=Command)
@click.argument("which", metavar="[NAME|RUN]", required=False)
@click.option("--follow", "-f", is_flag=True, help="Until the run has ended.")
@click.option("--errors", is_flag=True, help="Warnings and errors only.")
@click.option("--all", "everything", is_flag=True, help="Also what Prefect writes of itself.")
def logs(which: str | None, follow: bool, errors: bool, everything: bool) -> int:
    """Show what a run wrote.

    NAME is a campaign, RUN a run's name, its id or the first eight digits of it; without either, the newest run.

    \b
    Examples:
      opsd logs demo --follow
      opsd logs 3f2a77c1 --errors
    """
    from infra.cli.server import find_run, prefect

    least, left_out = logging.WARNING if errors else logging.INFO, () if everything else OF_THE_MACHINERY
    with prefect() as client:
        run, shown = find_run(client, which, active=False), 0
        click.echo(f"{run.name} ({run.id}): {run.state_name}", err=True)
        while True:
            shown += _print_logs(client, run, (least, left_out), shown)
            run = client.read_flow_run(run.id)
            if not follow or (run.state and run.state.is_final()):
                _print_logs(client, run, (least, left_out), shown)
                return 0
            time.sleep(_EVERY_S)


def _print_logs(client: "SyncPrefectClient", run: "FlowRun", wish: tuple[int, tuple[str, ...]], shown: int) -> int:
    """Print the lines after the first `shown`; how many there were. `wish`: the least level, beginnings that are left out."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterLevel
    from prefect.client.schemas.sorting import LogSort

    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]), level=LogFilterLevel(ge_=wish[0]))
    count = 0
    while page := client.read_logs(wanted, limit=_PAGE, offset=shown + count, sort=LogSort.TIMESTAMP_ASC):
        for line in (line for line in page if not line.message.startswith(wish[1])):
            said = _without_trace(line.message) if wish[1] else line.message
            click.echo(f"{line.timestamp.astimezone():%H:%M:%S} {logging.getLevelName(line.level):7} {said}")
        count += len(page)
    return count


def _without_trace(message: str) -> str:
    """One of opsd's own errors is said in full by its words; of any other the trace says where it was met."""
    from opsd_core import errors

    head, _, trace = message.partition("\nTraceback (most recent call last):")
    met = _MET.findall(trace)
    kind = getattr(errors, met[-1][0], None) if met else None
    if not (isinstance(kind, type) and issubclass(kind, errors.OpsdError)):
        return message
    return head if met[-1][0] in head else f"{head}: {met[-1][1]}"


@click.command(cls=Command)
@click.argument("which", metavar="[NAME|RUN]", required=False)
def cancel(which: str | None) -> int:
    """Cancel a run; what it finished is kept.

    NAME is a campaign, RUN a run's name, its id or the first eight digits of it; neither is needed when one run is under way.
    """
    from infra.cli.server import find_run, prefect

    with prefect() as client:
        run = find_run(client, which, active=True)
        cancelled(client, run)
    click.echo(f"{run.name} ({run.id}) is being cancelled. Its finished stages are kept: the same command again continues it.")
    return 0


def cancelled(client: "SyncPrefectClient", run: "FlowRun") -> None:
    """Ask for the end of a run. RefusedError when it has ended or the server says no."""
    from prefect.states import Cancelling

    from opsd_core.errors import RefusedError

    if run.state is not None and run.state.is_final():
        raise RefusedError(f"{run.name} ({run.id}) has ended already: {run.state_name}.")
    answer = client.set_flow_run_state(run.id, Cancelling())
    if answer.status.value != "ACCEPT" and not (answer.state and answer.state.is_cancelled()):
        reason = getattr(answer.details, "reason", None) or answer.status.value
        raise RefusedError(f"{run.name} ({run.id}) was not cancelled: {reason}")
