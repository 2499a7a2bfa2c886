"""Answer a promotion that waits for a person: `python -m infra.approve NAME|RUN-ID approve|refuse --comment TEXT`.

NAME is the registered model (its newest waiting promotion is answered, or the one of --version), RUN-ID the suspended
run of `opsd/promote`. Without a decision the waiting promotions are listed. The exit status is 0 when it was answered.
"""

import argparse
import getpass
import sys
import uuid
from collections.abc import Sequence

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
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
from prefect.exceptions import ObjectNotFound


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer, or list what waits; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.approve", description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="?", help="registered model or id of the suspended run")
    parser.add_argument("decision", nargs="?", choices=("approve", "refuse"))
    parser.add_argument("--version", type=int, help="which version, when several of a model wait")
    parser.add_argument("--comment", default="", help="why; it is kept with the move")
    parser.add_argument("--who", default=getpass.getuser(), help="who decides; it is kept with the move")
    given = parser.parse_args(arguments)
    try:
        with get_client(sync_client=True) as client:
            runs = _chosen(client, given.which, given.version)
            if given.decision is None:
                for run in runs:
                    print(f"{run.id}  {run.parameters.get('name')} version {run.parameters.get('version')}")
                return 0
            if not runs:
                print(f"opsd: no promotion of {given.which!r} waits for an answer.", file=sys.stderr)
                return 1
            refused = answer(client, runs[0], given.decision, given.comment, given.who)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        print(f"opsd: Prefect does not answer: {error!r}. Is PREFECT_API_URL right?", file=sys.stderr)
        return 1
    if refused:
        print(f"opsd: the answer was not accepted: {refused}", file=sys.stderr)
        return 1
    version = runs[0].parameters.get("version")
    print(f"{runs[0].parameters.get('name')} version {version}: {given.decision} is on its way (run {runs[0].id}).")
    return 0


def _chosen(client: SyncPrefectClient, which: str | None, version: int | None) -> list[FlowRun]:
    try:
        run_id = uuid.UUID(which or "")
    except ValueError:
        return waiting(client, which, version)
    try:
        return [client.read_flow_run(run_id)]
    except ObjectNotFound:
        return []


if __name__ == "__main__":
    sys.exit(main())
