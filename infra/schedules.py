"""Campaigns that start by themselves: schedules of the deployments, one for each name and occasion.

    nightly     opsd/iterate at the times of a cron line
    new data    opsd/watch_data every few minutes, which starts opsd/iterate when the data have changed

They are the server's own and stand on the deployments' pages, where a person can pause them. Saying the same again changes
nothing; other settings replace the old ones. A schedule keeps the settings of the moment in which it is made.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from pydantic import ValidationError

from opsd_core.errors import ConfigError
from tasks.runtime.deployments import registered

OCCASIONS = {"cron": "opsd/iterate", "new-data": "opsd/watch_data"}
"""What a campaign waits for -> the deployment whose schedule that is."""
_PREFIX = "opsd-"


class Scheduled(NamedTuple):
    """A campaign that starts by itself."""

    name: str
    occasion: str
    when: str
    active: bool


def at_times(cron: str, timezone: str) -> CronSchedule:
    """ConfigError for what is no cron line or no time zone."""
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except (ValidationError, ValueError) as error:
        raise ConfigError(
            f"--cron {cron!r:.100} in --timezone {timezone!r:.60} is not a time: {_why(error)} Five fields: minute, hour, day, "
            'month, weekday; "0 2 * * *" is every night at two. The zone is such as UTC or Europe/Berlin.'
        ) from error


def every(minutes: float) -> IntervalSchedule:
    """From one minute to a day."""
    return IntervalSchedule(interval=timedelta(minutes=minutes))


def schedule(
    client: SyncPrefectClient, name: str, when: CronSchedule | IntervalSchedule, parameters: dict[str, Any]
) -> None:
    """Start the campaign `name` at these times; with an interval, when its data have changed."""
    occasion = "cron" if isinstance(when, CronSchedule) else "new-data"
    deployment = registered(client, OCCASIONS[occasion]).id
    slug = f"{_PREFIX}{name}"
    made = DeploymentScheduleCreate(schedule=when, active=True, parameters=parameters, slug=slug)
    for old in client.read_deployment_schedules(deployment):
        if old.slug == slug:
            if old.schedule == when and old.parameters == parameters and old.active:
                return
            client.delete_deployment_schedule(deployment, old.id)
    client.create_deployment_schedules(deployment, [made])


def scheduled(client: SyncPrefectClient) -> list[Scheduled]:
    """What starts by itself."""
    return [
        Scheduled(entry.slug.removeprefix(_PREFIX), occasion, _in_words(entry), entry.active)
        for occasion, _, entry in _ours(client)
    ]


def unschedule(client: SyncPrefectClient, name: str) -> int:
    """Delete every schedule of campaign `name`; how many there were."""
    mine = [(deployment, entry.id) for _, deployment, entry in _ours(client) if entry.slug == f"{_PREFIX}{name}"]
    for deployment, number in mine:
        client.delete_deployment_schedule(deployment, number)
    return len(mine)


def _ours(client: SyncPrefectClient) -> Iterator[tuple[str, Any, DeploymentSchedule]]:
    for occasion, deployment in OCCASIONS.items():
        number = registered(client, deployment).id
        for entry in client.read_deployment_schedules(number):
            if (entry.slug or "").startswith(_PREFIX):
                yield occasion, number, entry


def _in_words(entry: DeploymentSchedule) -> str:
    when = entry.schedule
    if isinstance(when, CronSchedule):
        return f"at {when.cron} ({when.timezone})"
    return f"looks every {when.interval.total_seconds() / 60:g} minutes"


def _why(error: ValueError) -> str:
    text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return text.removeprefix("Value error, ").rstrip(".") + "."
