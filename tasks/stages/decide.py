"""Register a candidate, decide whether it replaces the champion, carry out the decision."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.judgement import gate
from opsd_core.judgement.guards import with_guards
from opsd_core.judgement.verdict import WAITS, Verdict
from opsd_core.records.outcomes import read_outcomes
from tasks.champion.approval import ask_a_person
from tasks.champion.guards import answered_in_lineage, guard_results
from tasks.champion.ledger import close_decision, open_decision
from tasks.champion.slices import slice_warnings
from tasks.champion.whole import check_version
from tasks.context import local, produce, store, tracker
from tasks.exclusive import champion_moves
from tasks.refs import DistilRef, EvaluationRef, GuardAnswers, Iteration, PolicyRef, Ref, Sampled, VerdictRef
from tasks.runtime.announce import announce
from tasks.runtime.environment import git_revision
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.teacher import teacher_ref
from tasks.stages.training.candidate import base_below, beside_in_words
from tasks.stages.weights import PRETRAINED_FROM
from tasks.storage.artifacts import describe

LINEAGE = "lineage.json"


@task(name="register", task_run_name="register-it{iteration.number}", **STAGE)
def register(
    iteration: Iteration,
    sampled: Sampled,
    trained: DistilRef,
    before: EvaluationRef,
    after: EvaluationRef,
    guards: Sequence[GuardAnswers] = (),
) -> PolicyRef:
    """One registry version per iteration, pointing at the stored weights; `lineage.json` says what it was made of.

    `before` is the champion's evaluation, `after` the candidate's.
    """
    policy, name, registry = trained.policy, iteration.name, tracker()
    beside = base_below(policy)
    description = f"Campaign {iteration.campaign.id}, iteration {iteration.number}.{beside_in_words(beside)}"
    known = _lineage(iteration, sampled, policy) | beside | {
        "evaluation": after.uri,
        "champion_evaluation": before.uri,
        "champion_version": iteration.champion.version,
    }
    if guards:
        known["guards"] = answered_in_lineage(iteration, guards)
    if after.blocks:
        known["evaluation_blocks"] = after.blocks
    identity = {"campaign": iteration.campaign.id, "iteration": iteration.number, "model": policy.digest}
    stored, _ = produce("lineage", identity, partial(_write_lineage, known))  # as it was when the version was registered
    registry.log_text(iteration.run_id, (local(stored.uri) / LINEAGE).read_text(), LINEAGE)
    tags = _searched(iteration, policy) | {f"opsd.{name}": text for name, text in beside.items()} | {"opsd.lineage": stored.uri}
    version = registry.register(name, policy.uri, iteration.run_id, tags, description)
    registry.set_alias(name, "candidate", version)
    return policy.model_copy(update={"version": version})


def _write_lineage(known: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / LINEAGE).write_text(json.dumps(known, indent=1, sort_keys=True))
    return {"model": known["model_uri"]}


def _searched(iteration: Iteration, policy: PolicyRef) -> dict[str, str]:
    """The part of the lineage that versions are found or loaded by: their tags."""
    tags = {
        "opsd.role": "candidate",
        "opsd.campaign": iteration.campaign.id,
        "opsd.iteration": str(iteration.number),
        "opsd.parent_version": str(iteration.policy.version or ""),
        "opsd.model_uri": policy.uri,
        "opsd.model_digest": policy.digest,
        "opsd.state_uri": policy.state.uri if policy.state else "",
    }
    return tags | ({PRETRAINED_FROM: iteration.campaign.initial.digest} if iteration.campaign.pretraining else {})


def _lineage(iteration: Iteration, sampled: Sampled, policy: PolicyRef) -> dict[str, Any]:
    """What a version was made of, for `tasks.context.lineage`."""
    campaign, config, parent = iteration.campaign, iteration.config, iteration.policy
    known: dict[str, Any] = {
        "campaign": campaign.id,
        "iteration": iteration.number,
        "model_uri": policy.uri,
        "model_digest": policy.digest,
        "state_uri": policy.state.uri if policy.state else "",
        "parent_version": parent.version,
        "parent_digest": parent.digest,
        "teacher_digest": teacher_ref(iteration).digest,
        "teacher_weights": config.teacher.weights_name,
        "prompts": sampled.prompts.uri,
        "rollouts": [shard.uri for shard in sampled.shards],
        "sampled_in": [shard.iteration for shard in sampled.shards],
        "rollout_digests": [shard.digest[:16] for shard in sampled.shards],
        "grades": sampled.graded.uri,
        "targets": [target.uri for target in sampled.targets],
        "config": campaign.record.uri,
        "data": campaign.data.uri,
        "data_state": describe(store(), campaign.data.uri).identity.get("content", {}),
        "model_state": describe(store(), campaign.initial.uri).identity.get("content", {}),
        "git_revision": git_revision(),
        "acceptance": campaign.initial.acceptance,
        "trust_remote_code": config.model.trust_remote_code,
        "mlflow_run": iteration.run_id,
        "prefect_flow_run": campaign.flow_run_id,
    }
    if iteration.teachers:
        named = zip(config.teacher.sources, iteration.teachers, strict=True)
        known["teachers"] = [[source, peer.uri, peer.digest[:16]] for source, peer in named]
    if sampled.judged.uri:
        known["renewal"] = sampled.judged.uri
    if campaign.rehearsal:
        known["rehearsal"] = campaign.rehearsal.uri
    return known


_NO_LABELS = (
    "The validation items have no answers, so accuracy is unknown and the gate cannot promote. Compare lengths, entropies and "
    "completions of both evaluations; a person can promote with the opsd/promote deployment."
)


@task(name="gate", task_run_name="gate-it{iteration.number}", **STAGE)
def decide(
    iteration: Iteration,
    candidate: PolicyRef,
    before: EvaluationRef,
    after: EvaluationRef,
    guards: Sequence[GuardAnswers] = (),
) -> VerdictRef:
    """The gate's verdict from the stored evaluations and guards, carried out once: the alias moves or it does not.

    IntegrityError when the candidate that would become champion is not stored whole: triggered again, its stages make it again.

    `before` is the champion's evaluation, `after` the candidate's.
    """
    config, champion = iteration.config, iteration.champion
    outcomes = read_outcomes(local(after) / "outcomes.parquet")
    decision = open_decision(iteration, [outcome.example_id for outcome in outcomes])
    verdict = gate.decide(
        outcomes,
        read_outcomes(local(before) / "outcomes.parquet"),
        config.promotion,
        candidate_version=str(candidate.version),
        champion_version=str(champion.version),
        candidate_evaluation=after.conditions_digest,
        champion_evaluation=before.conditions_digest,
        iterations=config.iterations,
        decision=decision,
        max_repetition=config.filter.max_repetition,
        planned=after.planned,
        seed=config.seed,
    )
    if "eval/accuracy" not in after.metrics:
        verdict = replace(verdict, promote=False, metric="accuracy (unknown: no labels)", reasons=(_NO_LABELS,))
    of_the_items, verdict = verdict, with_guards(verdict, guard_results(iteration, candidate, guards))
    verdict = replace(verdict, warnings=slice_warnings(iteration, before, after))
    identity = _verdict_identity(iteration, candidate, (after, before), guards)
    if after.planned:
        identity["planned"] = after.planned
    if decision is not None:
        identity["level"] = decision.level
    asks = verdict.promote and config.promotion.mode != "auto"
    artifact, _ = produce("verdicts", identity, partial(_write_verdict, verdict, asks))
    if decision is not None:
        close_decision(iteration, decision, of_the_items)
    outcome, reasons = _carry_out(iteration, verdict, Ref(uri=artifact.uri), candidate)
    promoted = outcome == "promoted"
    in_words = tracker().version_tags(iteration.name, candidate.version)["gate.verdict"]
    return VerdictRef(
        uri=artifact.uri,
        promote=promoted,
        summary=verdict.markdown(in_words),
        reasons=reasons,
        champion=candidate if promoted else champion,
        metrics=verdict.metrics(),
        outcome=in_words,
    )


_SIDES = ("candidate", "champion", "anchor")


def _verdict_identity(
    iteration: Iteration,
    candidate: PolicyRef,
    measured: tuple[EvaluationRef, EvaluationRef],
    guards: Sequence[GuardAnswers],
) -> dict[str, Any]:
    """`measured`: evaluations of the candidate and of the champion."""
    config = iteration.config
    identity = {
        "campaign": iteration.campaign.id,
        "iteration": iteration.number,
        "evaluations": [evaluation.digest for evaluation in measured],
        "versions": [candidate.version, iteration.champion.version],
        "promotion": config.promotion.identity(),
        "iterations": config.iterations,
        "max_repetition": config.filter.max_repetition,
    }
    if guards:
        identity["guards"] = [[getattr(found, side).digest for side in _SIDES if getattr(found, side)] for found in guards]
        identity["guards"].append([str(guards[0].anchor_version)])
    return identity


def _write_verdict(verdict: Verdict, asks: bool, folder: Path) -> dict[str, Any]:
    (folder / "verdict.json").write_text(json.dumps(verdict.as_dict(), indent=1))
    (folder / "verdict.md").write_text(verdict.markdown(WAITS if asks else None))
    return {"promote": verdict.promote}


def _carry_out(iteration: Iteration, verdict: Verdict, stored: Ref, candidate: PolicyRef) -> tuple[str, list[str]]:
    """What was done: promoted, refused, awaiting a person, awaiting approval; and why."""
    campaign, champion = iteration.campaign, iteration.champion
    registry, name, mode = tracker(), campaign.name, campaign.config.promotion.mode
    if verdict.promote and mode == "auto" and "opsd.gate" not in registry.version_tags(name, candidate.version):
        check_version(name, candidate.version)
    with champion_moves(name):
        tags = registry.version_tags(name, candidate.version)
        if "opsd.gate" in tags:  # carried out before a crash or by an earlier trigger of the same campaign
            return tags["opsd.gate"], list(verdict.reasons)
        reasons, outcome, extra = list(verdict.reasons), "refused", {}
        current = registry.version_by_alias(name, "champion")
        if verdict.promote and current not in (champion.version, candidate.version):
            reasons.append(
                f"the champion changed underneath: version {champion.version} was compared, "
                f"version {current} is champion now."
            )
        elif verdict.promote and mode == "manual":
            outcome = "awaiting a person"
            reasons.append("promotion.mode=manual: the gate agrees; promote with the opsd/promote deployment.")
        elif verdict.promote and mode == "approve":
            until = ask_a_person(campaign, candidate, stored, " ".join(["; ".join(reasons), *verdict.warnings]))
            outcome, extra = "awaiting approval", {"opsd.approval": f"{WAITS} until {until}, then it is refused"}
            reasons.append(f"promotion.mode=approve: the gate agrees; an opsd/promote run waits for approval until {until}.")
        elif verdict.promote:
            who = f"gate of campaign {campaign.id}"
            registry.promote(name, candidate.version, "; ".join(reasons), who, expected_champion=champion.version)
            outcome = "promoted"
        _tell(name, campaign.id, candidate, outcome, reasons, verdict)
        # Last, because it says that the verdict has been carried out.
        done = verdict.tags(WAITS if outcome.startswith("awaiting") else outcome) | {"opsd.gate": outcome}
        registry.set_version_tags(name, candidate.version, extra | done)
    get_run_logger().info("version %s %s: %s", candidate.version, outcome, "; ".join(reasons))
    return outcome, reasons


def _tell(name: str, campaign: str, candidate: PolicyRef, outcome: str, reasons: list[str], verdict: Verdict) -> None:
    """Announce what became of a candidate; that a person is asked is announced where the person is asked."""
    kind, because = {"promoted": ("promoted", "gate"), "refused": ("refused", "test")}.get(outcome, ("approval-waits", ""))
    if outcome == "refused" and verdict.promote:
        because = "champion moved"
    elif outcome == "refused" and (not all(c.passed for c in verdict.rails) or any(g.refuses for g in verdict.guards)):
        because = "guard"
    if outcome != "awaiting approval":
        said = " ".join(["; ".join(reasons), *verdict.warnings])
        text = f"{name}: version {candidate.version} {WAITS if outcome.startswith('awaiting') else outcome}: {said}"
        links = {"version": tracker().model_url(name, candidate.version)}
        announce(kind, (name, candidate.version), text, because=because, links=links, once=campaign)
