"""pytest tests/flows/test_continue.py — a worker's run that is killed goes on by itself, one that is cancelled stops."""

import time
import uuid

import mlflow
import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.deployments import run_deployment
from prefect.states import Cancelling

from tasks.context import store, tracker
from tasks.exclusive import CAMPAIGNS
from tasks.storage.artifacts import describe
from tasks.storage.lease import Lease

pytestmark = pytest.mark.timeout(900)
SMALL = {"rollout": {"num_prompts": 64}, "evaluation": {"num_items": 30}, "execution": {"checkpoint_every": 2}}
LONG = SMALL | {"optimizer": {"num_steps": 3000}, "execution": {"checkpoint_every": 10}}
"""Would train for half an hour."""
PARAMETERS = {
    "iterate": {"iterations": 1},
    "pretrain": {"iterations": 1},
    "study": {"arms": ["opsd", "null"], "seeds": [0], "rates": {}, "sets": [], "test_items": 20, "test_samples": 0, "side": 2},
}


def trigger(name, tiny_model, overrides, deployment="iterate"):
    overrides = overrides | {"model": {"source": str(tiny_model)}}
    parameters = {"recipe": "tiny", "name": name, "overrides": overrides} | PARAMETERS[deployment]
    return run_deployment(f"opsd/{deployment}", parameters=parameters, timeout=0, as_subflow=False).id


def read(run_id: uuid.UUID):
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


def history(run_id: uuid.UUID) -> list[tuple[str, str, str | None]]:
    """Every state of the run, for the message of a test that fails."""
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(run_id)
    return [(f"{state.timestamp:%H:%M:%S}", state.name, state.message) for state in states]


def log_of(run_id: uuid.UUID) -> list[str]:
    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), limit=200)
    return [log.message for log in logs]


def process_of(run_id: uuid.UUID) -> list[psutil.Process]:
    """The processes that carry this flow run's id."""
    found = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
        except psutil.Error:
            continue
        if environ.get("PREFECT__FLOW_RUN_ID") == str(run_id) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait(what, run_id):
    deadline = time.monotonic() + 400
    while not (found := what()):
        assert time.monotonic() < deadline and not read(run_id).state.is_completed(), read(run_id).state
        time.sleep(0.2)
    return found


def training(name):
    """Checkpoints of a campaign that has just begun to train."""
    before = {info.key for info in store().list("checkpoints/")}
    return lambda: {info.key for info in store().list("checkpoints/")} - before


def kill_while_it_trains(deployment, name, tiny_model, overrides):
    """Kill the flow's process; return when the run is complete, at its second start."""
    store().ensure_bucket()
    begun = training(name)
    run_id = trigger(name, tiny_model, overrides, deployment)
    wait(begun, run_id)
    first = process_of(run_id)
    for process in first:
        if process.ppid() not in {other.pid for other in first}:
            process.kill()
    wait(lambda: not set(first) & set(process_of(run_id)), run_id)
    wait(lambda: read(run_id).run_count == 2, run_id)
    deadline = time.monotonic() + 400
    while not (run := read(run_id)).state.is_final():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert run.state.is_completed() and run.run_count == 2, history(run_id)


@pytest.mark.slow
@pytest.mark.parametrize("deployment", ["iterate", "pretrain"])
def test_a_killed_campaign_goes_on_without_anybody(worker, tiny_model, deployment):
    name = f"continues-{deployment}"
    kill_while_it_trains(deployment, name, tiny_model, SMALL)
    assert [entry.tags["opsd.role"] for entry in tracker().versions(name)] == ["initial", "candidate"]


@pytest.mark.slow
def test_a_killed_study_goes_on_with_its_arms(worker, tiny_model):
    short = SMALL | {"iterations": 1, "optimizer": {"num_steps": 12}, "execution": {"checkpoint_every": 2}}
    kill_while_it_trains("study", "continues-study", tiny_model, short)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("continues-study").experiment_id
    children = client.search_runs([experiment], "tags.`mlflow.parentRunId` != ''")
    assert len(children) == 2 and len(client.search_runs([experiment])) == 3
    for run in children:
        points = client.get_metric_history(run.info.run_id, "distillation/loss")
        assert run.info.status == "FINISHED" and "test/accuracy" in run.data.metrics
        assert [point.step for point in points] == list(range(12))
    stored = [info.key for info in store().list("study-arms/") if info.key.endswith("MANIFEST.json")]
    arms = [describe(store(), store().uri(key.rpartition("/")[0])).identity for key in stored]
    assert sorted(arm["arm"] for arm in arms if arm["config"]["model"]["source"] == str(tiny_model)) == ["null", "opsd"]


@pytest.mark.slow
def test_a_cancelled_campaign_stops_computing_and_can_go_on(worker, tiny_model, capsys):
    store().ensure_bucket()
    begun = training("cancelled")
    run_id = trigger("cancelled", tiny_model, LONG)
    wait(begun, run_id)
    assert process_of(run_id)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelling())
    asked = time.monotonic()
    wait(lambda: not process_of(run_id), run_id)
    with capsys.disabled():
        print(f"\nno process {time.monotonic() - asked:.1f} s after the request")
    wait(lambda: read(run_id).state.is_cancelled(), run_id)
    assert Lease(store(), f"{CAMPAIGNS}/cancelled", 90.0, "").holder_now() is None
    time.sleep(5)
    assert read(run_id).state.is_cancelled() and read(run_id).run_count == 1

    begun = training("cancelled")
    again = trigger("cancelled", tiny_model, LONG)
    wait(begun, again)
    wait(lambda: any("resuming after optimiser step" in line for line in log_of(again)), again)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(again, Cancelling())
    wait(lambda: not process_of(again), again)
