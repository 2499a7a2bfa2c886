"""What a run has left to look at: its newest report in Prefect, and its pages in MLflow."""

import re

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    ArtifactFilterType,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort

from tasks.refs import ANSWERS_PAGE
from tasks.runtime.run_names import campaign_name

ARTIFACT_PREFIX = "opsd-"
REGISTER = ("iterate", "pretrain")
"""Deployments that register versions under the name that they are given; a study registers none."""


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


def mlflow_addresses(run: FlowRun, deployment: str, report: str) -> dict[str, str]:
    """Where MLflow shows what this run made: its experiment's table of runs, the answers, and versions where it makes some."""
    from tasks.tracking import Tracker  # loads MLflow, which costs seconds and memory

    name = campaign_name(deployment, run.parameters) or ""
    tracker = Tracker(patience_s=10.0)
    if not tracker.public_uri.startswith("http"):
        return {}
    found = {"metrics and plots": tracker.experiment_url(name) or ""}
    if answers := re.findall(rf"https?://\S+?/artifacts/{re.escape(ANSWERS_PAGE)}(?:\?\w+=\w+)?", report):
        found["answers, before and after"] = answers[-1]
    if deployment in REGISTER:
        found["the registered versions"] = f"{tracker.public_uri}/#/models/{name}"
    return found
