"""pytest -m slow tests/scale/test_cancelled.py — a cancelled campaign takes its runners and their calls with it."""

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.deployments import run_deployment
from prefect.states import Cancelling

from infra.processes import processes_by_run
from tests.scale.campaigns import eventually, sessions, store_at, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_cancelling_a_campaign_stops_its_runners_and_deletes_its_calls(worker, tiny_model):
    asked = tiny(str(tiny_model), 8, placement="workers", pools={"opsd": 1}) | {"name": "cancelled", "num_steps": 2000}
    run = run_deployment("opsd/iterate", parameters=asked, timeout=0)
    with store_at("s3://opsd") as store, get_client(sync_client=True) as client:
        eventually(lambda: any("/leases/" in key for key in sessions(store, "cancelled")), 900)
        client.set_flow_run_state(run.id, Cancelling())
        eventually(lambda: client.read_flow_run(run.id).state.name == "Cancelled")
        named = FlowRunFilter(tags=FlowRunFilterTags(all_=["runner", "cancelled"]))
        runners = client.read_flow_runs(flow_run_filter=named)
        assert len(runners) == 1
        eventually(lambda: client.read_flow_run(runners[0].id).state.is_final())
        eventually(lambda: not {run.id, runners[0].id} & processes_by_run().keys())
        assert client.read_flow_run(runners[0].id).state.name in ("Cancelled", "Completed")
        eventually(lambda: sessions(store, "cancelled") == [])
