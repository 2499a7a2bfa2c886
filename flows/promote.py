"""Moving the champion by hand.

prefect deployment run opsd/promote -p name=demo -p version=3 -p reason="reviewed"
prefect deployment run opsd/rollback -p name=demo -p reason="regression in production"
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.champion import promote_version, roll_back

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Reason = Annotated[str, Field(min_length=1, max_length=500)]
Who = Annotated[str, Field(min_length=1, max_length=80)]


@flow(name="opsd", flow_run_name="promote-{name}", log_prints=True)
def promote(
    name: Name,
    reason: Reason,
    version: Annotated[int | None, Field(ge=1)] = None,
    who: Who = "operator",
) -> str:
    """Make a version the champion; the champion so far becomes `previous`.

    Args:
        name: Registered model, i.e. the campaign's name.
        reason: Why; it is kept with the move.
        version: Version to promote; None = the candidate.
        who: Who decides; it is kept with the move.
    """
    text = promote_version(name, version, reason, who)
    print(text)
    return text


@flow(name="opsd", flow_run_name="rollback-{name}", log_prints=True)
def rollback(name: Name, reason: Reason, who: Who = "operator") -> str:
    """Make the previous champion the champion again.

    Args:
        name: Registered model, i.e. the campaign's name.
        reason: Why; it is kept with the move.
        who: Who decides; it is kept with the move.
    """
    text = roll_back(name, reason, who)
    print(text)
    return text
