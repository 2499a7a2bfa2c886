"""pytest tests/flows/test_continue.py — a worker's campaign that is killed goes on by itself."""

import time
import uuid

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment

from tasks.context import store, tracker

pytestmark = pytest.mark.timeout(900)
SMALL = {"rollout": {"num_prompts": 64}, "evaluation": {"num_items": 30}, "optimizer": {"checkpoint_every": 2}}


def trigger(name, tiny_model, overrides):
    overrides = overrides | {"model": {"source": str(tiny_model)}}
    parameters = {"recipe": "tiny", "name": name, "iterations": 1, "overrides": overrides}
    return run_deployment("opsd/iterate", parameters=parameters, timeout=0, as_subflow=False).id


def read(run_id: uuid.UUID):
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


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


@pytest.mark.slow
def test_a_killed_campaign_goes_on_without_anybody(worker, tiny_model):
    store().ensure_bucket()
    begun = training("continues")
    run_id = trigger("continues", tiny_model, SMALL)
    wait(begun, run_id)
    for process in process_of(run_id):
        process.kill()
    wait(lambda: read(run_id).run_count == 2, run_id)
    deadline = time.monotonic() + 400
    while not (run := read(run_id)).state.is_final():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert run.state.is_completed(), run.state
    assert [entry.tags["opsd.role"] for entry in tracker().versions("continues")] == ["initial", "candidate"]
