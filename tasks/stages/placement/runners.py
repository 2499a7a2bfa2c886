"""The campaign's side: runners started once through Prefect, one per slot of the pools, and calls handed out to them.

Prefect gives slots, screen, restart and cancellation; the store's leases say who works on a call and whether that one lives.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
from prefect import Task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Cancelling, Scheduled

from opsd_core.config.execution import ExecutionConfig
from opsd_core.errors import OpsdError, RefusedError, ServiceError
from opsd_core.models.devices import Offer
from tasks.context import store
from tasks.engines import offer
from tasks.runtime.deployments import registered
from tasks.runtime.retries import STAGE
from tasks.runtime.run_names import run_name
from tasks.runtime.side_by_side import HERE, Run
from tasks.stages.placement.ahead import Ahead
from tasks.stages.placement.calls import SESSIONS, TTL_S, Call, Desk, result_of
from tasks.stages.placement.pools import check_pools

DEPLOYMENT = "opsd/runner"
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 0.5
_LOOK_S = 5.0
_OUTAGES = (httpx.HTTPError, PrefectException, ConnectionError)


@contextmanager
def placed(name: str, execution: ExecutionConfig) -> Iterator[Run]:
    """Where the model work of campaign `name` is done, for as long as the block lasts: here, or by runners in execution.pools.

    ConfigError by field when a pool cannot hold its runners.
    """
    if execution.placement == "inline":
        yield HERE
        return
    _sweep(name)
    runners = Runners(name, execution.pools)
    desk = runners.desk
    try:
        with store().lease(desk.parent_key, TTL_S, holder=f"campaign {name}"):
            try:
                runners.start()
                yield runners
            except BaseException:
                runners.stop(working=True)
                raise
            runners.stop(working=False)
    finally:
        with suppress(OpsdError):
            desk.clear()


def offers(run: Run) -> Mapping[str, Offer]:
    """What the machines have that will do the work."""
    return run.offers() if isinstance(run, Runners) else {"here": offer()}


class Runners(Run):
    """The runners of one session."""

    def __init__(self, name: str, pools: Mapping[str, int]) -> None:
        self.name, self.pools = name, pools
        self.session = f"{name}/{uuid4().hex[:16]}"
        self.desk = Desk(store(), self.session)
        self._ahead: list[Ahead] = []

    def start(self) -> None:
        """Schedule a runner for every slot. ConfigError by field when a pool cannot hold them, ServiceError without Prefect."""
        try:
            with get_client(sync_client=True) as client:
                deployment = registered(client, DEPLOYMENT, "execution.placement=workers")
                check_pools(client, self.pools)
                for pool, count in self.pools.items():
                    for _ in range(count):
                        self._schedule(client, deployment, pool)
        except RefusedError:
            raise
        except _OUTAGES as error:
            raise ServiceError(
                f"Prefect does not take the runners of {self.name} ({type(error).__name__}). Look whether the server that "
                "PREFECT_API_URL names answers and takes this user, then trigger again."
            ) from error
        get_run_logger().info("runners: %s", ", ".join(f"{count} in {pool}" for pool, count in self.pools.items()))

    def _schedule(self, client: SyncPrefectClient, deployment: DeploymentResponse, pool: str) -> None:
        """A run of the deployment in another work pool than its own, which only this call of the API can ask for."""
        parameters = {"name": self.name, "session": self.session, "pool": pool}
        body = {
            "flow_id": str(deployment.flow_id),
            "deployment_id": str(deployment.id),
            "name": run_name("runner", parameters),
            "parameters": parameters,
            "tags": [*deployment.tags, self.name, self.session],
            "state": {"type": Scheduled().type.value},
            "work_pool_name": pool,
        }
        client.request("POST", "/flow_runs/", json=body)

    def runs(self, client: SyncPrefectClient) -> list[FlowRun]:
        """The runners' flow runs."""
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[self.session])))

    def stop(self, *, working: bool) -> None:
        """Cancel what has not started, and with `working` what works. Through an outage the runners end by themselves."""
        with suppress(*_OUTAGES), get_client(sync_client=True) as client:
            for run in self.runs(client):
                if run.state is None or run.state.is_final():
                    continue
                if run.state.type in (StateType.SCHEDULED, StateType.PENDING):
                    client.set_flow_run_state(run.id, Cancelled(message="Its campaign has ended."), force=True)
                elif working:
                    client.set_flow_run_state(run.id, Cancelling(message="Its campaign has ended."))

    def offers(self) -> dict[str, Offer]:
        """What the machines of every pool have, once one runner of each has begun."""
        found: dict[str, Offer] = {}
        for records in self._looks("offers"):
            found |= {r["where"]: Offer(r["cuda"], tuple(r["bfloat16"]), tuple(r.get("engines", ()))) for r in records.values()}
            if len(found) == len(self.pools):
                break
        return found

    def begin(self, task: Task, calls: Sequence[Call]) -> Ahead:
        """Calls that are done beside others, one runner being left to these; they proceed while results are waited for."""
        width = max(1, sum(self.pools.values()) - 1)
        self._ahead = [begun for begun in self._ahead if not begun.done]
        begun = Ahead(self.desk, task, calls, width, partial(self._looks, "results", set()))
        self._ahead.append(begun)
        self._feed()
        return begun

    def _feed(self) -> None:
        for begun in self._ahead:
            with suppress(ServiceError):  # an outage of the store: again at the next look
                begun.feed()

    def __call__(self, task: Task, calls: Sequence[Call]) -> list[Any]:
        keys = [_patiently(partial(self.desk.post, task, call)) for call in calls]
        results, by, began = {}, Counter(), time.monotonic()
        try:
            for records in self._looks("results", set(keys)):
                results |= {key: result_of(task, record) for key, record in records.items()}
                by.update(record["runner"] for record in records.values())
                if len(results) == len(set(keys)):
                    break
        finally:
            with suppress(OpsdError):
                self.desk.withdraw(keys)
        took = time.monotonic() - began
        get_run_logger().info("%s: %d calls in %.1f s, %s by each of %d runners", task.name, len(keys), took, *_shares(by))
        return [results[key] for key in keys]

    def _looks(self, part: str, wanted: set[str] | None = None) -> Iterator[dict[str, Any]]:
        """The new records of a part, look after look, through outages of the store.

        ServiceError when no runner is left that could write one.
        """
        known: set[str] = set()
        pause_s, looked = FIRST_PAUSE_S, time.monotonic()
        while True:
            records: dict[str, Any] = {}
            self._feed()
            with suppress(ServiceError):
                for key in set(self.desk.keys(part)) - known:
                    if (wanted is None or key in wanted) and (record := self.desk.read(part, key)) is not None:
                        records[key] = record
            known |= records.keys()
            yield records
            pause_s = FIRST_PAUSE_S if records else min(2 * pause_s, LAST_PAUSE_S)
            time.sleep(pause_s)
            if time.monotonic() - looked > _LOOK_S:
                self._check_alive()
                looked = time.monotonic()

    def _check_alive(self) -> None:
        try:
            with get_client(sync_client=True) as client:
                runs = self.runs(client)
        except _OUTAGES:
            return
        if all(run.state is not None and run.state.is_final() for run in runs):
            ended = "; ".join(f"{run.name} ({run.id}): {run.state.name}" for run in runs[:4])
            raise ServiceError(
                f"no runner of {self.name} is left in {', '.join(self.pools)}: {ended or 'their runs were deleted'}. Read their "
                "logs, remove the cause, often memory, and trigger again: what is made is kept."
            )


def _shares(by: Counter[str]) -> tuple[str, int]:
    """Such as 15 to 17, of 4."""
    least, most = min(by.values()), max(by.values())
    return str(least) if least == most else f"{least} to {most}", len(by)


def _patiently(post: Callable[[], str]) -> str:
    """What `post` returns, tried again through an outage as stages are."""
    for pause_s in STAGE["retry_delay_seconds"]:
        with suppress(ServiceError):
            return post()
        time.sleep(pause_s)
    return post()


def _sweep(name: str) -> None:
    """Delete the sessions of this campaign whose process is gone."""
    prefix = f"{SESSIONS}/{name}/"
    for session in {info.key.removeprefix(prefix).partition("/")[0] for info in store().list(prefix)}:
        desk = Desk(store(), f"{name}/{session}")
        if desk.parent() != "lives":
            desk.clear()
