"""Runs as people see them: named and tagged while they wait, and told about when they crashed for good."""

from collections.abc import Iterable
from contextlib import suppress
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from infra.recovery import FOR_GOOD
from opsd_core.errors import ConfigError
from tasks.runtime.announce import announce
from tasks.runtime.run_names import campaign_name, run_name, run_tags

_LIMIT = 200


def name_waiting(client: SyncPrefectClient, flow: str) -> None:
    """Give runs that wait their name and their campaign's tag, whoever submitted them: a form, a shell, a schedule."""
    waiting = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING]))
    runs = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
        flow_run_filter=FlowRunFilter(state=waiting),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=_LIMIT,
    )
    deployments = {number: deployment_name(client, number) for number in {run.deployment_id for run in runs}}
    for run in runs:
        if deployment := deployments[run.deployment_id]:
            name, tags = run_name(deployment, run.parameters), {*run.tags, *run_tags(deployment, run.parameters)}
            if (name, tags) != (run.name, set(run.tags)):
                with suppress(ObjectNotFound):  # deleted meanwhile
                    client.update_flow_run(run.id, name=name, tags=sorted(tags))


def tell_crashed(client: SyncPrefectClient, runs: Iterable[FlowRun]) -> list[str]:
    """Announce, once, runs that crashed and that nothing starts again; returns what was done, in words."""
    told = []
    for run in runs:
        if FOR_GOOD in run.tags:
            continue
        campaign = campaign_name(deployment_name(client, run.deployment_id), run.parameters) or run.name
        why = (run.state.message if run.state else "") or "its process died"
        announce("crashed", (campaign, None), f"{run.name} ({run.id}) crashed for good: {why}", once=str(run.id))
        client.update_flow_run(run.id, tags=sorted({*run.tags, FOR_GOOD}))
        told.append(f"{run.name} ({run.id}): announced as crashed for good")
    return told


def close_unanswered(runs: Iterable[FlowRun]) -> list[str]:
    """Say of versions whose promotion ended without an answer that they are refused; returns what was done, in words.

    ServiceError when MLflow is away.
    """
    from tasks.champion.answered import record_silence  # loads MLflow, which costs seconds and memory
    from tasks.tracking import Tracker

    closed = []
    for run in runs:
        name, version = run.parameters.get("name"), run.parameters.get("version")
        if not (run.parameters.get("verdict_uri") and isinstance(name, str) and isinstance(version, int)):
            continue
        message = (run.state.message or "") if run.state else ""
        why = "the question was withdrawn" if run.state and run.state.is_cancelled() else f"its promotion ended: {message:.200}"
        why = "nobody answered in time" if "never resumed" in message else why
        with suppress(ConfigError):  # no such version any more
            if record_silence(Tracker(patience_s=0.0), name, version, why):
                text = f"{name}: version {version} refused: {why}"
                announce("refused", (name, version), text, because="person", once=str(run.id))
                closed.append(f"{run.name} ({run.id}): version {version} refused, {why}")
    return closed


def deployment_name(client: SyncPrefectClient, number: UUID | None) -> str:
    """Name of a deployment; empty where there is none, or none any more."""
    with suppress(ObjectNotFound):
        return client.read_deployment(number).name if number else ""
    return ""
