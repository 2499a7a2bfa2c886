"""A person between the gate and the champion: the request, the form, and what an answer does.

A campaign with promotion.mode=approve starts a run of `opsd/promote` and continues. That run suspends: it holds no process
and no slot until somebody answers in its form or with `opsd approve` or `opsd refuse`; without an answer it ends as a refusal.
Champion, evaluation and weights are compared again when the answer comes, because days may lie between.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal

from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.input import RunInput
from pydantic import Field

from opsd_core.errors import ConfigError, IntegrityError
from opsd_core.judgement.verdict import WARNING, Verdict
from tasks.champion.answered import overtaken, record_answer
from tasks.champion.moves import history
from tasks.champion.whole import check_version
from tasks.context import local, stored_verdict, tracker
from tasks.exclusive import champion_moves
from tasks.refs import ANSWERS_PAGE, Campaign, PolicyRef, Ref
from tasks.runtime.announce import announce
from tasks.runtime.deployments import not_registered
from tasks.runtime.retries import STAGE
from tasks.runtime.run_names import run_name, run_tags
from tasks.runtime.stage import task
from tasks.tracking import Tracker

DEPLOYMENT = "opsd/promote"


class Approval(RunInput):
    """The form of a suspended promotion."""

    decision: Literal["approve", "refuse"] = Field(description="Whether the candidate becomes champion.")
    comment: str = Field("", max_length=500, description="Why; it is kept with the version and with the move.")
    who: str = Field("", max_length=80, description="Who decides; it is kept with the move.")


def ask_a_person(campaign: Campaign, candidate: PolicyRef, verdict: Ref, reason: str) -> str:
    """Start the run that waits for the answer, once per version; until when it waits (ISO 8601)."""
    hours = campaign.config.promotion.approval_hours
    parameters = {
        "name": campaign.name,
        "version": candidate.version,
        "reason": reason[:500],
        "who": f"gate of campaign {campaign.id}",
        "verdict_uri": verdict.uri,
        "hours": hours,
    }
    try:
        run_deployment(
            DEPLOYMENT,
            parameters=parameters,
            timeout=0,
            as_subflow=False,
            flow_run_name=run_name("promote", parameters),
            tags=run_tags("promote", parameters),
            idempotency_key=f"approve-{campaign.name}-{campaign.id}-{candidate.version}",
        )
    except ObjectNotFound as error:
        raise not_registered(DEPLOYMENT, "promotion.mode=approve") from error
    until = (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")
    registry, name = tracker(), campaign.name
    links = {
        "answers": registry.artifact_url(registry.get_version(name, candidate.version).run_id, ANSWERS_PAGE),
        "version": registry.model_url(name, candidate.version),
    }
    text = f"{name}: version {candidate.version} waits for a person until {until}; without an answer it is refused. {reason}"
    announce("approval-waits", (name, candidate.version), text, links=links, once=campaign.id)
    return until


@task(name="show-verdict", **STAGE)
def show_verdict(name: str, version: int, verdict_uri: str) -> str:
    """The text above the form: what is asked, the answers before and after, and the gate's report with every number."""
    report, registry = (local(verdict_uri) / "verdict.md").read_text(), tracker()
    warned = "".join(f"{WARNING}{text}\n\n" for text in stored_verdict(verdict_uri).warnings)  # the form shows few lines at once
    entry = registry.get_version(name, version)
    answers = f"[What it answers, before and after]({registry.artifact_url(entry.run_id, ANSWERS_PAGE)})"
    links = f"{answers} · [the version in MLflow]({registry.model_url(name, version)})"
    return f"# Shall version {version} of {name} become champion?\n\n{warned}{links}\n\n{report}"


@task(name="carry-out-answer", **STAGE)
def carry_out_answer(name: str, version: int, verdict_uri: str, decision: str, comment: str, who: str) -> str:
    """Move the champion or leave it, as the person said; a move is refused when its grounds no longer hold.

    Where the version became champion meanwhile, what was written down then stays.
    """
    registry, verdict = tracker(), stored_verdict(verdict_uri)
    damage = _damage(name, version) if decision == "approve" else None
    with champion_moves(name):
        if late := overtaken(registry, name, version, decision):
            return f"{name}: version {version} stays as it is, the answer of {who} ({decision}) changes nothing: {late}"
        outcome, why = "refused", comment or "no comment"
        if decision == "approve":
            changed = _changed_underneath(registry, name, version, verdict) or damage
            if changed is None:
                compared = int(verdict.champion_version)
                registry.promote(name, version, f"approved: {why}", who, expected_champion=compared)
                outcome = "approved"
            else:
                why = f"{changed} (the answer was approve: {why})"
        word = record_answer(registry, name, version, outcome, who, why)
    history(name)
    text = f"{name}: version {version} {outcome} by {who}: {why}"
    links = {"version": registry.model_url(name, version)}
    announce(word, (name, version), text, because="person", links=links)
    return text


def _damage(name: str, version: int) -> str | None:
    """Why the version's bytes cannot be used, None when each is right; those of the champion itself are not read again."""
    if tracker().version_by_alias(name, "champion") == version:
        return None
    try:
        check_version(name, version)
    except (IntegrityError, ConfigError) as error:
        return str(error)
    return None


def _changed_underneath(registry: Tracker, name: str, version: int, verdict: Verdict) -> str | None:
    """Why the verdict no longer holds; None when champion and evaluation set are what it was taken on."""
    champion = registry.version_by_alias(name, "champion")
    if champion == version:
        return None
    if verdict.candidate_version != str(version) or not verdict.promote:
        return f"the verdict is not one that promotes version {version}"
    if str(champion) != verdict.champion_version:
        return f"the champion changed underneath: {verdict.champion_version} was compared, {champion} is champion now"
    judged = [entry.tags["gate.evaluation"] for entry in registry.versions(name) if "gate.evaluation" in entry.tags]
    if judged and judged[-1] != verdict.evaluation_digest:
        return "the evaluation set changed underneath: later versions were judged on other items or settings"
    return None
