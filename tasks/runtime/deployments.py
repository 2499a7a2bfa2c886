"""This project's deployments on the Prefect server: found, or refused in the same words everywhere."""

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from opsd_core.errors import RefusedError


def registered(client: SyncPrefectClient, name: str, needed_by: str = "this") -> DeploymentResponse:
    """The deployment `name`, such as opsd/iterate. RefusedError when the server does not have it."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise not_registered(name, needed_by) from error


def not_registered(name: str, needed_by: str = "this") -> RefusedError:
    """What there is to say of a deployment that the server does not have; `needed_by`: the setting, if there is one."""
    return RefusedError(
        f"{needed_by} needs the deployment {name}, which this Prefect server does not have. Register the deployments (opsd up, "
        "or prefect --no-prompt deploy --all), then try again: what is finished is kept."
    )
