"""Moving the champion by hand.

prefect deployment run opsd/promote -p name=demo -p version=3 -p reason="reviewed"
prefect deployment run opsd/rollback -p name=demo -p reason="regression in production"
opsd approve demo --comment "read ten completions"     # answers what promotion.mode=approve asks
"""

from typing import Annotated

from prefect.flow_runs import suspend_flow_run
from pydantic import Field

from flows import stages
from flows.parameters import flow

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Reason = Annotated[str, Field(min_length=1, max_length=500)]
Who = Annotated[str, Field(min_length=1, max_length=80)]


@flow
def promote(
    name: Name,
    reason: Reason,
    version: Annotated[int | None, Field(ge=1)] = None,
    who: Who = "operator",
    verdict_uri: str | None = None,
    hours: Annotated[float, Field(gt=0, le=8760)] = 72.0,
) -> str:
    """Make a version the champion; the champion so far becomes `previous`.

    Args:
        name: Registered model, i.e. the campaign's name.
        reason: Why; it is kept with the move.
        version: Version to promote. Untouched: the candidate.
        who: Who decides; it is kept with the move. Untouched: operator.
        verdict_uri: Ask a person first and show this verdict; promotion.mode=approve sets it. Untouched: promote at once.
        hours: How long to wait for that answer; without one it is a refusal. Untouched: 72.
    """
    if verdict_uri is None or version is None:
        text = stages.promote_version(name, version, reason, who)
    else:
        form = stages.Approval.with_initial_data(description=stages.show_verdict(name, version, verdict_uri))
        # Here the process ends; after the answer the flow starts again from the top and gets it from this call.
        answer = suspend_flow_run(wait_for_input=form, timeout=max(1, round(hours * 3600)), key="approval")
        person = answer.who or "a person in Prefect"
        text = stages.carry_out_answer(name, version, verdict_uri, answer.decision, answer.comment, person)
    print(text)
    return text


@flow
def rollback(name: Name, reason: Reason, who: Who = "operator") -> str:
    """Make the previous champion the champion again.

    Args:
        name: Registered model, i.e. the campaign's name.
        reason: Why; it is kept with the move.
        who: Who decides; it is kept with the move. Untouched: operator.
    """
    text = stages.roll_back(name, reason, who)
    print(text)
    return text
