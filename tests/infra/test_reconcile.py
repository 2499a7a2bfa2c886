"""Runs of a real Prefect server whose processes are gone, and one real kill: `pytest tests/infra/test_reconcile.py`."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

import mlflow
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.states import Cancelled, Cancelling, Crashed, Failed, Paused, Pending, Running

from infra.processes import processes_by_run
from infra.reconcile import Reconciler
from infra.recovery import CONTINUED, MAX_STARTS
from infra.state import MODEL_QUEUE, POOL
from tasks.context import store
from tasks.runtime.settings import load_settings
from tasks.storage.presence import Record, key_of, read_record, recorded_runs
from tasks.storage.process_mark import process_mark
from tasks.tracking import Tracker
from tests.stack import Stack

FLOW = "opsd-test-crashes"
ONE_MACHINE_S = 60.0
"""docs/operations.md: within this a killed run is on its way again."""


@pytest.fixture
def client(stack: Stack) -> Iterator[SyncPrefectClient]:
    store().ensure_bucket()
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def reconciler(stack: Stack) -> Reconciler:
    return Reconciler(load_settings(), FLOW)


@pytest.fixture(scope="module")
def dead() -> dict:
    process = subprocess.Popen([sys.executable, "-c", ""])
    mark = process_mark(process.pid)
    process.wait()
    return mark


@pytest.fixture
def in_state(client: SyncPrefectClient) -> Callable[..., UUID]:
    """A new run of a deployment of this name, led through these states; no worker starts it."""
    flow_id = client.create_flow_from_name(FLOW)

    def make(name: str, states: tuple[State, ...], process: dict | None = None) -> UUID:
        number = client.create_flow_run_from_deployment(client.create_deployment(flow_id, name)).id
        if process is not None:
            record(number, process)
        for state in states:
            client.set_flow_run_state(number, state, force=True)
        return number

    return make


def record(number: UUID, process: dict, expires_in_s: float = 90.0) -> None:
    store().put(key_of(str(number)), json.dumps(asdict(Record(process, time.time() + expires_in_s))).encode())


def settle(reconciler: Reconciler) -> list[str]:
    """Passes until nothing waits to be confirmed."""
    done = reconciler.reconcile()
    while reconciler.is_waiting:
        time.sleep(1)
        done += reconciler.reconcile()
    return done


def names(client: SyncPrefectClient, runs: list[UUID]) -> list[str]:
    return [client.read_flow_run(number).state.name for number in runs]


def test_what_lives_ended_or_waits_stays_and_what_lost_its_process_does_not(client, reconciler, in_state, dead) -> None:
    alive = process_mark()
    left = {
        in_state("iterate", (Pending(), Running()), alive): "Running",
        in_state("iterate", (Pending(),), alive): "Pending",
        in_state("study", (Pending(), Running(), Crashed()), alive): "Crashed",
        in_state("iterate", (Pending(), Running(), Cancelling()), alive): "Cancelling",
        in_state("iterate", (Pending(), Running(), Cancelled()), dead): "Cancelled",
        in_state("iterate", (Pending(), Running(), Failed()), dead): "Failed",
        in_state("promote", (Pending(), Running(), Paused(timeout_seconds=600)), dead): "Paused",
        in_state("iterate", (Pending(), Running())): "Running",  # too young to be missed without a record
        in_state("other", (Pending(), Running()), dead): "Running",  # not ours
    }
    changed = {in_state(name, (Pending(), Running()), dead): "AwaitingRetry" for name in CONTINUED}
    changed |= {
        in_state("iterate", (Pending(),), dead): "AwaitingRetry",
        in_state("gc", (Pending(),), dead): "AwaitingRetry",
        in_state("iterate", (Pending(), Running(), Crashed()), dead): "AwaitingRetry",
        in_state("iterate", (Pending(), Running(), Crashed())): "AwaitingRetry",
        in_state("iterate", (Pending(), Running(), Cancelling()), dead): "Cancelled",
        in_state("promote", (Pending(), Running()), dead): "Crashed",
        in_state("rollback", (Pending(), Running(), Crashed()), dead): "Crashed",
    }
    before = dict(zip(left, (client.read_flow_run(number).state.id for number in left), strict=True))
    settle(reconciler)
    assert names(client, list(left)) == list(left.values())
    assert {number: client.read_flow_run(number).state.id for number in left} == before
    assert names(client, list(changed)) == list(changed.values())
    kept = {UUID(number) for number in recorded_runs(store()) if not read_record(store(), number).is_vacant}
    assert {n for n in left if left[n] in ("Cancelled", "Failed", "Paused")}.isdisjoint(kept), "their records go"
    later = settle(reconciler)  # what crashed for good is announced in the pass after it, and nothing else happens in that
    assert all(line.endswith("announced as crashed for good") for line in later) and len(set(later)) == len(later)
    assert settle(reconciler) == [], "nothing happens twice"
    for number in (*left, *changed):
        client.delete_flow_run(number)


def test_a_run_that_crashes_at_every_start_is_started_five_times(client, reconciler, in_state, dead) -> None:
    number = in_state("iterate", ())
    for start in range(1, MAX_STARTS + 1):
        record(number, dead)
        for state in (Pending(), Running(), *([Crashed()] if start % 2 else [])):
            client.set_flow_run_state(number, state)
        settle(reconciler)
        run = client.read_flow_run(number)
        assert (run.state.name, run.run_count) == ("Crashed" if start == MAX_STARTS else "AwaitingRetry", start)


@pytest.mark.slow
def test_a_run_that_cannot_be_started_is_tried_five_times(client, reconciler, in_state) -> None:
    number = in_state("iterate", ())
    for attempt in range(1, MAX_STARTS + 1):
        for state in (Pending(), Crashed()):
            client.set_flow_run_state(number, state)
        settle(reconciler)
        assert names(client, [number]) == ["Crashed" if attempt == MAX_STARTS else "AwaitingRetry"]


def test_a_process_elsewhere_is_missed_when_its_record_has_run_out_for_a_while(client, reconciler, in_state, dead) -> None:
    elsewhere = {**dead, "boot": "another machine"}
    late, renewed = (in_state("iterate", (Pending(), Running()), elsewhere) for _ in range(2))
    settle(reconciler)
    assert names(client, [late, renewed]) == ["Running", "Running"]
    for number in (late, renewed):
        record(number, elsewhere, -1.0)
    reconciler.reconcile()
    record(renewed, elsewhere, 90.0)  # it could not reach the store for a while
    settle(reconciler)
    assert names(client, [late, renewed]) == ["AwaitingRetry", "Running"]


@pytest.mark.slow
def test_forty_runs_that_crash_together_go_on_once_each_whoever_reconciles(client, in_state, dead) -> None:
    states = [(Pending(), Running()), (Pending(), Running(), Crashed()), (Pending(),), (Pending(), Running())]
    runs = [in_state("iterate", states[index % 4], dead) for index in range(40)]
    crashed = time.monotonic()

    def work() -> None:
        mine = Reconciler(load_settings(), FLOW)
        while time.monotonic() < crashed + ONE_MACHINE_S and set(names(client_of(), runs)) != {"AwaitingRetry"}:
            mine.reconcile()
            time.sleep(1)

    def client_of() -> SyncPrefectClient:
        return get_client(sync_client=True)

    both = [threading.Thread(target=work) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    print(f"40 runs on their way {time.monotonic() - crashed:.0f} s after their crash")
    assert Counter(names(client, runs)) == {"AwaitingRetry": 40}
    again = [sum(s.name == "AwaitingRetry" for s in client.read_flow_run_states(number)) for number in runs]
    assert again == [1] * 40


def test_what_a_campaign_left_open_in_mlflow_is_ended_and_what_goes_on_is_not(client, reconciler, in_state, dead) -> None:
    log = Tracker(load_settings())
    outcomes = {Failed(): "FAILED", Cancelled(): "KILLED", Crashed(): "RUNNING", Running(): "RUNNING"}
    children = {}
    for index, (state, status) in enumerate(outcomes.items()):
        number = in_state("iterate", (Pending(), Running(), state), process_mark() if status == "RUNNING" else dead)
        parent = log.campaign_run("abandoned", f"c{index}", {}, {"prefect.flow_run_id": str(number)})
        children[log.iteration_run(parent, 0, {"prefect.flow_run_id": str(number)})] = status
        children[log.child_run(parent, "arm")] = status
        children[parent] = status
    taken_over = in_state("iterate", (Pending(), Running(), Failed()), dead)
    parent = log.campaign_run("abandoned", "again", {}, {"prefect.flow_run_id": str(taken_over)})
    successor = in_state("iterate", (Pending(), Running()), process_mark())
    assert log.campaign_run("abandoned", "again", {}, {"prefect.flow_run_id": str(successor)}) == parent
    children[parent] = "RUNNING"
    settle(reconciler)
    found = {run: mlflow.MlflowClient().get_run(run).info.status for run in children}
    assert found == children


SLEEPER = """
import time
from prefect import flow
from prefect.runtime import flow_run

@flow(name="opsd")
def replay():
    time.sleep(600 if flow_run.run_count == 1 else 0)
"""


@pytest.fixture
def sleeper(worker: Stack, client: SyncPrefectClient, tmp_path: Path) -> Iterator[None]:
    """opsd/replay is, for one test, a flow that sleeps at its first start."""
    (tmp_path / "replay.py").write_text(SLEEPER)
    own = client.read_deployment_by_name("opsd/replay")

    def deploy(entrypoint: str, steps: list, form: dict) -> None:
        client.create_deployment(
            own.flow_id,
            "replay",
            entrypoint=entrypoint,
            pull_steps=steps,
            parameter_openapi_schema=form,
            description=own.description,
            work_pool_name=POOL,
            work_queue_name=MODEL_QUEUE,
        )

    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}
    deploy("replay.py:replay", [step], {"type": "object", "properties": {}})
    yield
    deploy(own.entrypoint, own.pull_steps, own.parameter_openapi_schema)


def wait_for(client: SyncPrefectClient, number: UUID, holds: Callable[[FlowRun], bool], seconds: float) -> FlowRun:
    deadline = time.monotonic() + seconds
    while not holds(run := client.read_flow_run(number)):
        assert time.monotonic() < deadline, [(s.name, s.message) for s in client.read_flow_run_states(number)]
        time.sleep(0.2)
    return run


def test_a_killed_process_is_followed_by_another_within_the_documented_time(sleeper, client) -> None:
    number = run_deployment("opsd/replay", timeout=0, as_subflow=False).id
    wait_for(client, number, lambda run: run.state.is_running(), 180)
    for process in processes_by_run()[number]:
        process.kill()
    killed = time.monotonic()
    wait_for(client, number, lambda run: run.run_count == 2, ONE_MACHINE_S)
    print(f"running again {time.monotonic() - killed:.1f} s after the kill")
    run = wait_for(client, number, lambda run: run.state.is_final(), 180)
    assert run.state.is_completed() and run.run_count == 2
