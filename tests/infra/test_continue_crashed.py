"""pytest tests/infra/test_continue_crashed.py — which crashed runs a real Prefect server schedules again, and how often."""

import time
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Crashed, Pending, Running

from infra import bootstrap
from tests.stack import Stack

LIVED = (Pending(), Running(), Crashed())


@pytest.fixture
def client(stack: Stack) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        bootstrap.prepare(client, model_jobs=1)
        yield client


@pytest.fixture
def scheduled(client: SyncPrefectClient) -> Callable[[str], UUID]:
    """A new run of a deployment of this name, which has no work pool: no worker starts it, the test says what happens."""
    flow_id = client.create_flow_from_name("opsd-test-crashes")

    def schedule(name: str) -> UUID:
        return client.create_flow_run_from_deployment(client.create_deployment(flow_id, name)).id

    return schedule


def pass_through(client: SyncPrefectClient, run_id: UUID, states: tuple[State, ...]) -> None:
    for state in states:
        client.set_flow_run_state(run_id, state)


def going_on(client: SyncPrefectClient, run_id: UUID) -> FlowRun:
    """The run, once it waits for its next start."""
    deadline = time.monotonic() + 60
    while (run := client.read_flow_run(run_id)).state.name != "AwaitingRetry":
        assert time.monotonic() < deadline, run.state
        time.sleep(0.1)
    return run


def test_a_run_that_crashes_at_every_start_is_started_five_times(
    client: SyncPrefectClient, scheduled: Callable[[str], UUID]
) -> None:
    run_id = scheduled("iterate")
    for starts in range(1, 5):
        pass_through(client, run_id, LIVED)
        assert going_on(client, run_id).run_count == starts
    pass_through(client, run_id, LIVED)
    others = [scheduled(name) for name in ("promote", "rollback", "gc")]
    for other in others:
        pass_through(client, other, LIVED)
    pass_through(client, never_begun := scheduled("iterate"), (Pending(), Crashed()))

    # The server handles events in their order: when later crashes have been answered, these were left alone.
    for name in ("iterate", "replay", "pretrain", "study"):
        pass_through(client, later := scheduled(name), LIVED)
        assert going_on(client, later).run_count == 1
    left = [client.read_flow_run(each) for each in (run_id, never_begun, *others)]
    assert [(run.state.name, run.run_count) for run in left] == [("Crashed", starts) for starts in (5, 0, 1, 1, 1)]
