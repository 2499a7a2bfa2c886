"""Runs that no person started: what they take unless they are told otherwise."""

from typing import Any

from prefect.context import FlowRunContext
from prefect.runtime import flow_run

_AUTOMATION = "AUTOMATION"
UNATTENDED = {"promotion": {"alpha_per": "model"}}
"""Settings of campaigns that nobody starts, below the user's own."""


def unattended() -> dict[str, Any]:
    """Settings below the user's own: a run of a schedule or an automation spends one alpha for the model's whole life.

    Nobody counts such campaigns, and each of them with an alpha of its own would promote by chance sooner or later.
    """
    return UNATTENDED if _started_by_itself() else {}


def _started_by_itself() -> bool:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or flow_run.get_parent_flow_run_id():
        return False
    return bool(run.auto_scheduled or (run.created_by and run.created_by.type == _AUTOMATION))
