"""Start a campaign once for every state of its data.

What has been seen is no record of its own that could be lost: the run has the state of its data as its idempotency key, and
Prefect makes one run for a key, whoever asks and however often.
"""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun

from opsd_core.config import CampaignConfig
from opsd_core.config.kinds.places import missing
from opsd_core.config.kinds.sources import check_can_change
from opsd_core.digest import digest
from opsd_core.errors import DataError
from tasks.exclusive import running_campaigns
from tasks.runtime.deployments import registered
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.states import data_state, in_words

CAMPAIGN = "opsd/iterate"


@task(name="start-on-new-data", **STAGE)
def start_on_new_data(config: CampaignConfig, parameters: dict[str, Any]) -> str:
    """What became of the data as they are now, in a line: a campaign for them was started, was started before, or must wait.

    parameters: of opsd/iterate. ConfigError for a source that never changes, DataError for one that is not there, RefusedError
    where opsd/iterate is not registered.
    """
    check_can_change(config.data.source)
    state = data_state(config.data)
    if not state:
        raise DataError(missing("data.source", config.data.source, "a file, or a folder with files"))
    what, key = f"data.source={config.data.source}: {in_words(state)}", digest([CAMPAIGN, parameters, state])
    with get_client(sync_client=True) as client:
        if earlier := _with_key(client, key):
            return f"{what}: nothing new, {earlier.name} is of these data ({_ended_as(earlier)})."
        if config.name in running_campaigns():
            return f"{what}: new, but a campaign of {config.name} is under way. It is started by the first look after that."
        deployment = registered(client, CAMPAIGN, "opsd/watch_data")
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters, idempotency_key=key)
    return f"{what}: new, {run.name} is started."


def _with_key(client: SyncPrefectClient, key: str) -> FlowRun | None:
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key])))
    return found[0] if found else None


def _ended_as(run: FlowRun) -> str:
    return run.state.name.lower() if run.state else "no state"
