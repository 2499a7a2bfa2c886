"""Make Prefect agree with the processes there are: `python -m infra.reconcile [--every SECONDS]`.

A run whose process is gone is continued, cancelled or set to Crashed, as `infra.recovery` decides, and the MLflow runs of a
campaign that ended without ending them are ended. Nothing is remembered between passes that a restart could lose. The
worker of this project does it every EVERY_S seconds; beside other workers (`prefect worker start`, Kubernetes) run the
command. Several at once do no harm: one acts at a time (lease `leases/reconcile`), on what it reads then.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import AwaitingRetry, Cancelled, Crashed
from pydantic import ValidationError

from infra.lossy import Lossy
from infra.processes import Processes, processes_by_run, run_number
from infra.recovery import ENDED_AS, FOR_GOOD, WATCHED, Action, Life, Seen, confirm_s, decide, life
from infra.telling import close_unanswered, name_waiting, tell_crashed
from opsd_core.errors import BusyError, OpsdError
from tasks.runtime.settings import Settings, load_settings
from tasks.storage.base import Store
from tasks.storage.presence import forget, read_record, recorded_runs, vacate
from tasks.storage.s3 import open_store

EVERY_S = 10.0
FLOW = "opsd"
_ACTIVE = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
_RECENT = timedelta(days=7)
"""An end older than this is history: nobody wants its run to start now."""
_PAGE = 200
_STORE_TIMEOUT_S = 5.0
_LEASE_S = 60.0
Ended = Mapping[UUID, float]
"""When the starts of runs ended that the asking worker made, in seconds since 1970."""
_OUTAGES = (httpx.HTTPError, PrefectException, OpsdError, OSError, ValidationError)


@dataclass(frozen=True)
class Case:
    """A run, what is seen of it, and what is to be done."""

    run: FlowRun
    seen: Seen
    alive: Life
    action: Action


class Reconciler:
    """Passes over the runs of one Prefect server; between them it only remembers since when a process is seen gone."""

    def __init__(self, settings: Settings, flow: str = FLOW, ended: Ended | None = None) -> None:
        self.settings, self.flow = settings, flow
        self.ended: Ended = {} if ended is None else ended
        self.store: Store = open_store(settings.store, settings.model_copy(update={"s3_timeout_s": _STORE_TIMEOUT_S}))
        self._gone_since: dict[UUID, float] = {}
        self._settled: dict[UUID, UUID | None] = {}
        """Crashed runs that stay as they are, with the state in which that was decided."""
        self._closed: dict[UUID, UUID | None] = {}
        """Ended runs whose MLflow runs are ended."""

    def reconcile(self) -> list[str]:
        """One pass; returns what was done, in words. Raises when a server is away."""
        try:
            with get_client(sync_client=True) as client:
                runs, here = self._candidates(client), processes_by_run()
                due = [case for case in [self._look(client, run, here) for run in runs] if self._is_due(case)]
                known = {run.id for run in runs}
                self._gone_since = {number: since for number, since in self._gone_since.items() if number in known}
                done = self._act(client, due) if due else []
                done += tell_crashed(client, [run for run in runs if self._settled.get(run.id) == run.state_id])
                self._forget_ended(client, known, here)
                done += self._end_mlflow_runs(client, here)
                name_waiting(client, self.flow)
                return done
        except Exception:
            self._gone_since.clear()  # what an outage hides must be seen afresh
            raise

    @property
    def is_waiting(self) -> bool:
        """Whether a process was seen gone that the next pass has to confirm."""
        return bool(self._gone_since)

    def _candidates(self, client: SyncPrefectClient) -> list[FlowRun]:
        crashed = FlowRunFilterEndTime(after_=datetime.now(UTC) - _RECENT)
        found = self._read(client, FlowRunFilter(state=_in_states(*_ACTIVE)))
        found += self._read(client, FlowRunFilter(state=_in_states(StateType.CRASHED), end_time=crashed))
        return [run for run in found if self._settled.get(run.id) != run.state_id or FOR_GOOD not in run.tags]

    def _read(self, client: SyncPrefectClient, wanted: FlowRunFilter) -> list[FlowRun]:
        found: list[FlowRun] = []
        while len(found) % _PAGE == 0:
            page = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[self.flow])),
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=list(WATCHED))),
                flow_run_filter=wanted,
                limit=_PAGE,
                offset=len(found),
            )
            found += page
            if not page:
                break
        return found

    def _look(self, client: SyncPrefectClient, run: FlowRun, here: Processes) -> Case:
        now = time.time()
        pool = client.read_work_pool(run.work_pool_name) if run.work_pool_name else None
        seen = Seen(
            state=run.state.type,
            state_age_s=now - run.state.timestamp.timestamp(),
            deployment=client.read_deployment(run.deployment_id).name,
            starts=1,
            record=read_record(self.store, str(run.id)),
            runs_here=run.id in here,
            starts_processes=pool is None or pool.type == "process",
            ended_here=self.ended.get(run.id, 0.0) > run.state.timestamp.timestamp(),
        )
        alive = life(seen, now)
        if alive == Life.GONE:
            again = sum(state.name == "AwaitingRetry" for state in client.read_flow_run_states(run.id))
            seen = replace(seen, starts=1 + again)
        return Case(run, seen, alive, decide(seen, alive))

    def _is_due(self, case: Case) -> bool:
        """Whether to act now: what looks gone must look so for a while."""
        number, now = case.run.id, time.monotonic()
        if case.action == Action.LEAVE and case.seen.state == StateType.CRASHED and case.alive == Life.GONE:
            self._settled[number] = case.run.state_id
        if case.action in (Action.LEAVE, Action.END_PROCESS):
            self._gone_since.pop(number, None)
            return case.action == Action.END_PROCESS
        since = self._gone_since.setdefault(number, now)
        return now - since >= confirm_s(case.seen)

    def _act(self, client: SyncPrefectClient, due: Iterable[Case]) -> list[str]:
        done = []
        try:
            with self.store.lease("leases/reconcile", _LEASE_S, holder="reconcile") as lease:
                for case in due:
                    lease.check()
                    case = self._look(client, client.read_flow_run(case.run.id), processes_by_run())
                    if case.action != Action.LEAVE:
                        self._carry_out(client, case)
                        self._gone_since.pop(case.run.id, None)
                        done.append(f"{case.run.name} ({case.run.id}), {case.run.state.name}: {case.action.value}")
        except BusyError:
            pass  # another one acts
        return done

    def _carry_out(self, client: SyncPrefectClient, case: Case) -> None:
        run, number = case.run, case.run.id
        if case.action == Action.END_PROCESS:
            for process in processes_by_run().get(number, ()):
                with suppress(psutil.Error):
                    process.kill()
            return
        if case.action == Action.CANCEL:
            client.set_flow_run_state(number, Cancelled(message="Cancelled; its process is gone."), force=True)
            return
        if run.state.type == StateType.RUNNING or case.action == Action.CRASH:
            client.set_flow_run_state(number, Crashed(message="Its process is gone."), force=True)
        if case.action == Action.START_AGAIN:
            vacate(self.store, str(number), case.seen.record.attempt if case.seen.record else 0)
            again = AwaitingRetry(scheduled_time=datetime.now(UTC), message="Goes on after its process was gone.")
            client.set_flow_run_state(number, again, force=True)

    def _forget_ended(self, client: SyncPrefectClient, candidates: set[UUID], here: Processes) -> None:
        """Remove the records of runs that ended, or were deleted, and whose process is gone."""
        for number in recorded_runs(self.store):
            known = run_number(number)
            if known is None or known in candidates or known in here:
                continue
            record = read_record(self.store, number)
            if record is not None and record.is_over(time.time()) and not _goes_on(client, known):
                forget(self.store, number)

    def _end_mlflow_runs(self, client: SyncPrefectClient, here: Processes) -> list[str]:
        """End what campaigns left open that failed, were cancelled, or crashed for good; once per end of a campaign."""
        recent = FlowRunFilterEndTime(after_=datetime.now(UTC) - _RECENT)
        wanted = FlowRunFilter(state=_in_states(*ENDED_AS), end_time=recent)
        ended = {run.id: run for run in self._read(client, wanted) if self._closed.get(run.id) != run.state_id}
        ended = {number: run for number, run in ended.items() if number not in here and self._is_for_good(run)}
        done: list[str] = []
        if ended:
            from tasks.tracking.abandoned import OpenRuns  # loads MLflow, which costs seconds and memory

            try:
                mlflow = OpenRuns(self.settings, patience_s=0.0)
                for opener, runs in mlflow.by_flow_run().items():
                    if run := ended.get(run_number(opener)):
                        status = ENDED_AS[run.state.type]
                        mlflow.end(runs, status)
                        done.append(f"{run.name} ({run.id}), {run.state.name}: {len(runs)} MLflow runs {status}")
                done += close_unanswered(ended.values())
                self._closed |= {number: run.state_id for number, run in ended.items()}
            except OpsdError:
                return done  # MLflow is away: the next pass asks again, and nothing else waits for it
        return done

    def _is_for_good(self, run: FlowRun) -> bool:
        return run.state.type != StateType.CRASHED or self._settled.get(run.id) == run.state_id


def reconcile_forever(every_s: float = EVERY_S, say: Callable[[str], None] = print, ended: Ended | None = None) -> None:
    """A pass every `every_s` seconds, sooner when something waits to be confirmed; outages are waited out and said once."""
    reconciler, silent = None, ""
    while True:
        try:
            reconciler = reconciler or Reconciler(load_settings(), ended=ended)
            for line in reconciler.reconcile():
                say(f"opsd: {line}")
            silent = ""
        except Exception as error:  # whatever happens in one pass, the next one looks again
            if type(error).__name__ != silent:
                silent = type(error).__name__
                say(f"opsd: reconciling waits for a server: {silent}: {error!s:.300}")
        waiting = reconciler is not None and reconciler.is_waiting
        time.sleep(min(every_s, 5.0) if waiting else every_s)


def reconcile_once() -> list[str]:
    """What one look needs, waiting as long as a confirmation takes; returns what was done."""
    reconciler = Reconciler(load_settings())
    done = reconciler.reconcile()
    while reconciler.is_waiting:
        time.sleep(2.0)
        done += reconciler.reconcile()
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Once, or for ever; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.reconcile", description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=float, metavar="SECONDS", help="repeat; without it, once")
    given = parser.parse_args(arguments)
    if given.every is not None and not 1 <= given.every <= 3600:
        print(f"opsd: --every {given.every:g} must be between 1 and 3600 seconds.", file=sys.stderr)
        return 1
    try:
        if given.every is not None:
            sys.stdout = Lossy(sys.stdout)
            reconcile_forever(given.every, lambda line: print(line, flush=True))
        for line in reconcile_once():
            print(line)
    except KeyboardInterrupt:
        return 0
    except _OUTAGES as error:
        print(f"opsd: Prefect or a store cannot be asked: {type(error).__name__}: {error!s:.300}", file=sys.stderr)
        return 1
    return 0


def _in_states(*types: StateType) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types)))


def _goes_on(client: SyncPrefectClient, number: UUID) -> bool:
    """Whether a run is to start or at work: its record is still asked for. False for one that was deleted."""
    try:
        state = client.read_flow_run(number).state
    except ObjectNotFound:
        return False
    return state is not None and not (state.is_final() or state.is_paused())


if __name__ == "__main__":
    sys.exit(main())
