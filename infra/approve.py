"""Promotions that wait for a person, and their answers."""

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort


def waiting(client: SyncPrefectClient, name: str | None = None, version: int | None = None) -> list[FlowRun]:
    """Suspended promotions, newest first."""
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])),
        ),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["promote"])),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=200,
    )
    return [
        run
        for run in runs
        if name in (None, run.parameters.get("name")) and version in (None, run.parameters.get("version"))
    ]


def answer(client: SyncPrefectClient, run: FlowRun, decision: str, comment: str, who: str) -> str:
    """Resume `run` with the answer; empty when accepted, otherwise why not."""
    response = client.resume_flow_run(run.id, run_input={"decision": decision, "comment": comment, "who": who})
    return "" if response.status == SetStateStatus.ACCEPT else str(getattr(response.details, "reason", response.status))
