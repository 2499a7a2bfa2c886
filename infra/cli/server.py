"""The Prefect server behind the command line: where it is, what it is asked for, and its refusals in words."""

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL

from infra.recovery import WATCHED
from opsd_core.errors import ConfigError, RefusedError, ServiceError
from tasks.runtime.deployments import registered
from tasks.runtime.run_names import campaign_name, run_name, run_tags
from tasks.runtime.secrets import redact
from tasks.runtime.settings import public_url

FLOW = "opsd"
ACTIVE = (StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.PAUSED, StateType.CANCELLING)
_LIMIT = 200


@contextmanager
def prefect() -> Iterator[SyncPrefectClient]:
    """A client of the server that the environment, the embedded stack or Prefect's profile names.

    ServiceError where it does not answer or refuses, instead of the libraries' own errors.
    """
    url = PREFECT_API_URL.value() or os.environ.get("PREFECT_API_URL", "")
    if not url:
        raise ServiceError("no Prefect server is known. Start the embedded servers (opsd up), or set PREFECT_API_URL.")
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPStatusError as error:
        raise refusal(error, url) from None  # the library's own error names the address with its password
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServiceError(
            f"Prefect at {public_url(url)} does not answer ({type(error).__name__}). Start it (opsd up), look at it (opsd "
            "status), or correct PREFECT_API_URL."
        ) from error
    except ObjectNotFound as error:
        raise RefusedError(f"Prefect at {public_url(url)} does not know what was asked for: {str(error)[:300]}") from error
    except PrefectException as error:
        raise ServiceError(f"Prefect at {public_url(url)}: {str(error)[:300]}") from error


def refusal(error: httpx.HTTPStatusError, url: str) -> ServiceError:
    """The server's no, in words."""
    status = error.response.status_code
    if status in (401, 403):
        return RefusedError(
            f"Prefect at {public_url(url)} refuses the credentials (status {status}). Set PREFECT_API_AUTH_STRING=name:password, "
            "or PREFECT_API_KEY for a cloud workspace."
        )
    try:
        detail = error.response.json().get("detail", "")
    except (ValueError, AttributeError):
        detail = error.response.text
    kind = ServiceError if status >= 500 else RefusedError
    return kind(f"Prefect at {public_url(url)} refused the request (status {status}): {redact(str(detail))[:600]}")


def submit(client: SyncPrefectClient, deployment: str, parameters: dict[str, Any]) -> FlowRun:
    """A run of `opsd/<deployment>`, asked for now; from then on its name and tag say what it works on."""
    found = registered(client, f"{FLOW}/{deployment}")
    name, tags = run_name(deployment, parameters), run_tags(deployment, parameters)
    return client.create_flow_run_from_deployment(found.id, parameters=parameters, name=name, tags=tags)


def active_runs(client: SyncPrefectClient, deployments: Sequence[str] = ()) -> list[FlowRun]:
    """Runs that have not ended, newest first."""
    return _runs(client, deployments, ACTIVE)


def find_run(client: SyncPrefectClient, which: str | None, *, active: bool) -> FlowRun:
    """The run that `which` means: an id or its first eight digits, a run's name, a campaign's or model's name; None = the newest.

    Of several the newest. `active`: only one that has not ended, and None only where there is just one. ConfigError otherwise.
    """
    kept = _runs(client, (), ACTIVE if active else None)
    if which is None:
        if active and len(kept) > 1:
            listed = ", ".join(f"{run.name} ({str(run.id)[:8]})" for run in kept[:10])
            raise ConfigError(f"{len(kept)} runs have not ended: {listed}. Say which one.")
        found = kept
    else:
        if full := _uuid(which):
            return client.read_flow_run(full)
        found = [run for run in kept if which in (run.name, campaign_of(run))]
        found = found or [run for run in kept if len(which) >= 8 and str(run.id).startswith(which.lower())]
    if not found:
        kind = "run that has not ended" if active else "run"
        raise ConfigError(f"there is no {kind}{f' of {which!r:.100}' if which else ''}. What there is: opsd status")
    return found[0]


def _runs(client: SyncPrefectClient, deployments: Sequence[str], types: Sequence[StateType] | None) -> list[FlowRun]:
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))) if types else None
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(state=state),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=list(deployments))) if deployments else None,
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=_LIMIT,
    )


def campaign_of(run: FlowRun) -> str:
    """Name of the campaign, study or model that a run works on."""
    deployment = next((tag for tag in run.tags if tag in WATCHED), "")
    return campaign_name(deployment, run.parameters) or run.name


def message_of(run: FlowRun) -> str:
    """Why a run ended as it did, without the words of the machinery around it."""
    text = (run.state.message or "") if run.state else ""
    text = re.sub(r"^(Flow run|Task run) encountered an exception:?\s*", "", text)
    return re.sub(r"^\w*(Error|Exception):\s*", "", text).strip()


def page_of(run: FlowRun) -> str:
    """Address of a run in Prefect's pages."""
    return f"{public_url(PREFECT_API_URL.value() or '').removesuffix('/api')}/runs/flow-run/{run.id}"


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
