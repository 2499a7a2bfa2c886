"""A runner: does the calls of one campaign in a slot of a work pool. Campaigns with execution.placement=workers start it."""

from typing import Annotated

from prefect.runtime import flow_run
from pydantic import Field

from flows import stages
from flows.parameters import flow

MODEL_WORK = ("tasks.stages.rollout", "tasks.stages.score", "tasks.stages.distil", "tasks.stages.blocks")
"""What nearly every call needs; a process that waits for its first call has loaded it."""


@flow
def runner(name: str, session: Annotated[str, Field(pattern=r"^[a-z0-9._-]+/[0-9a-f]{16}$")], pool: str) -> str:
    """Pulls calls until the campaign that started it has ended; triggered by hand it ends at once.

    Args:
        name: The campaign's name.
        session: The campaign's list of calls in the store.
        pool: The work pool whose slot it holds.
    """
    stages.load_all(MODEL_WORK)
    number = stages.pull(session, pool, str(flow_run.get_id()))
    text = f"{number} calls of {name} answered"
    print(text)
    return text
