"""The outcome of a deployment's newest run, and where to look at it: `python -m infra.summary [opsd/iterate]`.

The exit status is 0 when the run completed, 1 when it did not.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    ArtifactFilterType,
    DeploymentFilter,
    DeploymentFilterId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.exceptions import ObjectNotFound

from infra.access.servers import is_private, login_lines
from infra.state import open_state, state_root
from opsd_core.errors import OpsdError
from tasks.refs import ANSWERS_PAGE
from tasks.runtime.settings import public_url
from tasks.tracking import Tracker

ARTIFACT_PREFIX = "opsd-"
REGISTER = ("iterate", "pretrain")
"""Deployments that register versions under the name that they are given; a study registers none."""


def newest_run(client: SyncPrefectClient, deployment: str) -> FlowRun | None:
    """The run of `deployment` (`flow/name`) that was asked for last; None when there is none."""
    chosen = client.read_deployment_by_name(deployment)
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[chosen.id])),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    return runs[0] if runs else None


def newest_report(client: SyncPrefectClient, run: FlowRun) -> str:
    """The newest markdown artifact of `run` whose key begins with `opsd-`; empty when it wrote none."""
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]),
            type=ArtifactFilterType(any_=["markdown"]),
            key=ArtifactFilterKey(like_=ARTIFACT_PREFIX + "%"),
        ),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    return str(found[0].data) if found else ""


def describe(run: FlowRun, report: str, prefect_url: str, addresses: Mapping[str, str]) -> str:
    """The closing lines: state, report, and addresses by what is there."""
    state = run.state.name if run.state else "unknown"
    message = run.state.message if run.state and run.state.message else ""
    lines = [f"{run.name}: {state}" + (f" ({message})" if message else "")]
    if report:
        lines += ["", report.strip()]
    lines += ["", "To look at:", f"  the run and its reports   {prefect_url}/runs/flow-run/{run.id}"]
    return "\n".join([*lines, *(f"  {what:<25} {address}" for what, address in addresses.items() if address)])


def mlflow_addresses(run: FlowRun, deployment: str, report: str) -> dict[str, str]:
    """Where MLflow shows what this run made: its experiment's table of runs, the answers, and versions where it makes some."""
    name = str(run.parameters.get("name") or run.parameters.get("recipe", ""))
    tracker = Tracker(patience_s=10.0)
    if not tracker.public_uri.startswith("http"):
        return {}
    found = {"metrics and plots": tracker.experiment_url(name) or ""}
    if answers := re.findall(rf"https?://\S+?/artifacts/{re.escape(ANSWERS_PAGE)}(?:\?\w+=\w+)?", report):
        found["answers, before and after"] = answers[-1]
    if deployment.partition("/")[2] in REGISTER:
        found["the registered versions"] = f"{tracker.public_uri}/#/models/{name}"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the summary of one deployment's newest run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.summary", description=__doc__.splitlines()[0])
    parser.add_argument("deployment", nargs="?", default="opsd/iterate", help="flow/name (default: %(default)s)")
    deployment = parser.parse_args(arguments).deployment
    if len(list(filter(None, deployment.split("/")))) != 2:
        print(f"opsd: {deployment!r} is not flow/name, as in opsd/iterate.", file=sys.stderr)
        return 1
    prefect_url = os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
    try:
        with get_client(sync_client=True) as client:
            run = newest_run(client, deployment)
            report = newest_report(client, run) if run else ""
    except ObjectNotFound:
        print(f"opsd: the deployment {deployment!r} is not registered. Run: make up", file=sys.stderr)
        return 1
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        print(f"opsd: Prefect does not answer ({error!r}). Run: make up", file=sys.stderr)
        return 1
    if run is None:
        print(f"opsd: {deployment} has not run yet. Run: prefect deployment run {deployment} --watch", file=sys.stderr)
        return 1
    try:
        addresses = mlflow_addresses(run, deployment, report)
    except OpsdError as error:
        print(f"opsd: MLflow does not answer, so its addresses are left out: {error}", file=sys.stderr)
        addresses = {}
    print(describe(run, report, public_url(prefect_url), addresses))
    print("\n".join(login_lines(open_state(state_root()), os.environ, show=is_private(sys.stdout))))
    return 0 if run.state and run.state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
