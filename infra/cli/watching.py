"""Waiting for a run: one live line in a terminal, plain lines elsewhere, and the outcome in words."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType, WorkPoolStatus
from prefect.exceptions import ObjectNotFound

from infra.cli.progress import Progress
from infra.cli.server import active_runs, page_of, prefect, submit
from infra.recovery import FOR_GOOD, GOES_ON_WITHIN_S
from infra.state import POOL

_EVERY_S = 1.0
_PATIENCE_S = 120.0
"""How long a server that does not answer is waited for."""
_WAITS_AFTER_S = 5.0
_WIDE = 120
"""Columns from which on there is room for a bar beside the words."""


class Display(Protocol):
    """Where the progress is shown."""

    def show(self, line: str, done: float, left: str) -> None:
        """Replace the line of what is going on."""

    def keep(self, line: str) -> None:
        """Write a line that stays."""


class Plain:
    """Lines for logs and pipes: one when something else begins, and one for every tenth that is done."""

    def __init__(self) -> None:
        self._last: tuple[str, int] = ("", 0)

    def show(self, line: str, done: float, left: str) -> None:
        now = (line.rstrip("0123456789 %"), int(done * 10))
        if now != self._last:
            self._last = now
            self.keep(f"{line} ({done:.0%} done{', ' if left else ''}{left})" if done else line)

    def keep(self, line: str) -> None:
        print(line, flush=True)


class Silent:
    """Nothing, where the caller wants the outcome alone."""

    def show(self, line: str, done: float, left: str) -> None:
        """Nothing."""

    def keep(self, line: str) -> None:
        """Nothing."""


@contextmanager
def display() -> Iterator[Display]:
    """A line that is rewritten in a terminal, with a bar where it is wide enough; plain lines elsewhere."""
    from rich.console import Console

    console = Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        yield Plain()
        return
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class Words(ProgressColumn):
        """The column that gives way where the line is longer than the terminal is wide."""

        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    texts = ("{task.percentage:>3.0f} %", "{task.fields[left]}")
    percent, left = (TextColumn(text, markup=False, table_column=Column(no_wrap=True)) for text in texts)
    bar = [BarColumn(24)] if console.width >= _WIDE else []
    with Bars(*bar, percent, Words(), left, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=1.0, left="")

        class Live:
            """One bar."""

            def show(self, line: str, done: float, left: str) -> None:
                bars.update(task, completed=done, description=line, left=left)

            def keep(self, line: str) -> None:
                bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield Live()


def submitted(deployment: str, parameters: dict[str, Any], progress: Progress, *, watched: bool) -> FlowRun | None:
    """The run that was asked for, as it ended where it is watched; None after Ctrl-C, which ends the watching alone."""
    with prefect() as client:
        run = submit(client, deployment, parameters)
        which = str(run.id)[:8]
        if not watched:
            print(f"{run.name} is on its way: {page_of(run)}\nTo follow it: opsd logs {which} --follow", flush=True)
            return run
        try:
            with display() as shown:
                return watch(client, run, progress, shown)
        except KeyboardInterrupt:
            said = f"{run.name} goes on: {page_of(run)}\n  to follow it   opsd logs {which} --follow"
            print(f"\n{said}\n  to cancel it   opsd cancel {which}", file=sys.stderr, flush=True)
            return None


def watch(
    client: SyncPrefectClient, run: FlowRun, progress: Progress, shown: Display, timeout_s: float = math.inf
) -> FlowRun:
    """Show a run until it has ended; returns it as it ended, or as it is after `timeout_s`.

    The errors of httpx when the server stays away.
    """
    began, silent_since = time.monotonic(), None
    told: set[int] = set()
    while True:
        try:
            run = client.read_flow_run(run.id)
            progress.read(client, run)
            for report in progress.reports:
                if report.iteration not in told:
                    told.add(report.iteration)
                    shown.keep(str(report))
            if _has_ended(client, run) or time.monotonic() - began > timeout_s:
                return run
            waits = time.monotonic() - began > _WAITS_AFTER_S
            shown.show(_line(client, run, progress, waits), progress.done, progress.left())
            silent_since = None
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                raise
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > _PATIENCE_S:
                raise
            shown.show("Prefect does not answer; the run goes on without it", progress.done, "")
        time.sleep(_EVERY_S)


def _line(client: SyncPrefectClient, run: FlowRun, progress: Progress, waits: bool) -> str:
    kind = run.state.type if run.state else None
    if kind == StateType.CANCELLING:
        return "being cancelled"
    if kind == StateType.SCHEDULED and run.run_count:
        return f"its process ended (start {run.run_count}); it resumes where it stopped"
    if kind in (StateType.SCHEDULED, StateType.PENDING):
        return f"waiting{reason_of_waiting(client, run)}" if waits and kind == StateType.SCHEDULED else "waiting for a worker"
    return progress.line()


def reason_of_waiting(client: SyncPrefectClient, run: FlowRun) -> str:
    """Why a run has not begun."""
    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        return f": there is no work pool {POOL!r}. Make it: opsd up"
    if pool.status != WorkPoolStatus.READY:
        return ": no worker is online. Start one: opsd up"
    ahead = [other for other in active_runs(client) if other.state and other.state.is_running() and other.id != run.id]
    return f" for its turn after {ahead[0].name}" if ahead else " for a worker"


def _has_ended(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Whether a run is over: a crashed one only when nothing schedules it again in the time that recovery promises."""
    if run.state is None or not run.state.is_final():
        return False
    deadline = time.monotonic() + GOES_ON_WITHIN_S
    now = run
    while run.state.is_crashed() and FOR_GOOD not in now.tags and time.monotonic() < deadline:
        time.sleep(_EVERY_S)
        now = client.read_flow_run(run.id)
        if now.state is not None and not now.state.is_final():
            return False
    return True
