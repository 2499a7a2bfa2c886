"""Waiting for a short run, such as a promotion, and repeating what it says."""

import sys
import time

import click
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort

from infra.cli.command import INTERRUPTED
from infra.cli.observing import OF_THE_MACHINERY
from infra.cli.outcome import ending
from infra.cli.watching import reason_of_waiting

_EVERY_S = 0.5
_TELL_AFTER_S = 10.0
_LOGS_S = 5.0
_PRINTS = "prefect.flow_runs"
_EDGES = ("Beginning flow run", "Resuming flow run", "Suspending flow run")
"""Lines where one start of a run ends or the next one begins."""
_MACHINERY = (*OF_THE_MACHINERY, "Finished in state")


def settled(client: SyncPrefectClient, run: FlowRun) -> int:
    """Wait until the run has ended and print its words; the exit status: 0 completed, 1 not, 130 after Ctrl-C."""
    try:
        run = ended(client, run)
    except KeyboardInterrupt:
        click.echo(f"\n{run.name} goes on. To cancel it: opsd cancel {str(run.id)[:8]}", err=True)
        return INTERRUPTED
    if why := ending(run):
        click.echo(f"opsd: {why}", err=True)
        return 1
    click.echo(said(client, run) or f"{run.name}: done")
    sys.stdout.flush()
    return 0


def ended(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """The run as it ended; on the way a word to stderr when it has to wait for its turn."""
    began, told = time.monotonic(), False
    while not (run.state and run.state.is_final()):
        if not told and run.state and run.state.is_scheduled() and time.monotonic() - began > _TELL_AFTER_S:
            told = True
            click.echo(f"{run.name} is waiting{reason_of_waiting(client, run)}", err=True)
        time.sleep(_EVERY_S)
        run = client.read_flow_run(run.id)
    return run


def said(client: SyncPrefectClient, run: FlowRun) -> str:
    """What the flow printed last; empty when the server has no such line within five seconds."""
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    deadline = time.monotonic() + _LOGS_S
    while time.monotonic() < deadline:
        for line in client.read_logs(wanted, limit=100, sort=LogSort.TIMESTAMP_DESC):
            if line.message.startswith(_EDGES):
                break  # the server has no line of the last start's own yet
            if line.name == _PRINTS and line.task_run_id is None and not line.message.startswith(_MACHINERY):
                return line.message.strip()
        time.sleep(_EVERY_S)
    return ""
