"""Retention carried out: a plan as a table, and the deletions."""

from datetime import UTC, datetime

from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from opsd_core.errors import BusyError
from tasks.context import store, tracker
from tasks.exclusive import running_campaigns
from tasks.refs import Record
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.storage.artifacts import discard
from tasks.upkeep.retention import Plan, make_plan

_LEASE = "leases/retention"


class Retention(Record):
    """What a retention run found and did."""

    num_kept: int
    num_protected: int
    num_deletable: int
    deletable_bytes: int
    freed_bytes: int = 0


@task(name="plan-retention", **STAGE)
def plan_retention(keep_candidates: int, min_age_hours: float) -> Retention:
    """Count what would go, per kind, without touching anything."""
    return _report(_plan(keep_candidates, min_age_hours), 0, "would be deleted: a dry run")


@task(name="delete-unneeded", **STAGE)
def delete_unneeded(keep_candidates: int, min_age_hours: float) -> Retention:
    """Delete what no kept version needs, each manifest before its objects. BusyError when a campaign starts meanwhile."""
    with store().lease(_LEASE, 90.0) as lease:
        plan, running, freed, gone = _plan(keep_candidates, min_age_hours), running_campaigns(), 0, set()
        for number, key in enumerate(plan.deletable):
            if number % 50 == 0:
                lease.check()
                if set(running_campaigns()) - set(running):
                    raise BusyError("a campaign started while old artifacts were deleted; the rest stays. Run again later.")
            freed += discard(store(), key)
            gone.add(key)
        _mark_versions(gone)
    get_run_logger().info("deleted %d artifacts, %d bytes", len(gone), freed)
    return _report(plan, freed, "deleted")


def _plan(keep_candidates: int, min_age_hours: float) -> Plan:
    registry = tracker()
    versions = {name: registry.versions(name) for name in registry.model_names()}
    return make_plan(
        store(),
        versions,
        keep_candidates=keep_candidates,
        min_age_s=min_age_hours * 3600,
        running=running_campaigns(),
    )


def _mark_versions(gone: set[str]) -> None:
    """Say on each version whose weights went that they did."""
    registry, today = tracker(), datetime.now(UTC).date().isoformat()
    for name in registry.model_names():
        for version in registry.versions(name):
            if any(f"/{key}/" in version.tags.get("opsd.model_uri", "") for key in gone):
                registry.set_version_tags(name, version.version, {"opsd.retention": f"weights deleted {today}"})


def _report(plan: Plan, freed: int, what: str) -> Retention:
    create_table_artifact(plan.rows(), key="opsd-retention", description=f"Artifacts by kind; the last columns are {what}.")
    total = plan.rows()[-1]
    return Retention(
        num_kept=total["kept"],
        num_protected=total["protected"],
        num_deletable=total["deletable"],
        deletable_bytes=total["deletable bytes"],
        freed_bytes=freed,
    )
