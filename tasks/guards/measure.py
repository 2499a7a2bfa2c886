"""Candidate, champion and anchor answer every guard's items: as evaluations, which are found again in later iterations."""

from tasks.guards.items import guard_examples, guarded
from tasks.refs import EvaluationRef, GuardAnswers, Iteration, PolicyRef
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.evaluate import measured


@task(name="answer-guards", task_run_name="answer-guards-it{iteration.number}", **STAGE)
def answer_guards(iteration: Iteration, candidate: PolicyRef) -> list[GuardAnswers]:
    """Everybody's answers by guard, in the order of promotion.guards; the anchor's where it is another than the champion."""
    campaign, guards = iteration.campaign, iteration.config.promotion.guards
    sides = {"candidate": candidate, "champion": iteration.champion}
    if campaign.anchor is not None and campaign.anchor.digest != iteration.champion.digest:
        sides["anchor"] = campaign.anchor
    found: dict[str, dict[str, EvaluationRef]] = {guard.title: {} for guard in guards}
    parts, done = len(sides) * len(guards), 0
    for role, policy in sides.items():  # one model after another, so that each is loaded once
        for guard, items in zip(guards, campaign.guards, strict=True):
            config, label = guarded(iteration.config, guard), f"it{iteration.number}-{guard.title}-{role}"
            found[guard.title][role] = measured(config, policy, guard_examples(items), label, guard.measure, (done, parts))
            done += 1
    return [
        GuardAnswers(
            guard=items.guard,
            items=items,
            anchor_version=campaign.anchor.version if "anchor" in sides else None,
            **found[items.guard],
        )
        for items in campaign.guards
    ]
