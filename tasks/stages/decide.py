"""Register a candidate, decide whether it replaces the champion, carry out the decision."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.judgement import gate
from opsd_core.judgement.verdict import Verdict
from opsd_core.records.outcomes import read_outcomes
from tasks.champion.approval import ask_a_person
from tasks.champion.whole import check_version
from tasks.context import local, produce, store, tracker
from tasks.exclusive import champion_moves
from tasks.refs import DistilRef, EvaluationRef, Iteration, PolicyRef, Ref, Sampled, VerdictRef
from tasks.runtime.environment import git_revision
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.teacher import teacher_ref
from tasks.stages.weights import PRETRAINED_FROM
from tasks.states import as_tag
from tasks.storage.artifacts import describe


@task(name="register", task_run_name="register-it{iteration.number}", **STAGE)
def register(iteration: Iteration, sampled: Sampled, trained: DistilRef, evaluation: EvaluationRef) -> PolicyRef:
    """One registry version per iteration, pointing at the stored weights; its tags are the lineage."""
    policy, name, registry = trained.policy, iteration.name, tracker()
    description = f"Campaign {iteration.campaign.id}, iteration {iteration.number}."
    tags = _lineage(iteration, sampled, policy, evaluation)
    version = registry.register(name, policy.uri, iteration.run_id, tags, description)
    registry.set_alias(name, "candidate", version)
    return policy.model_copy(update={"version": version})


def _lineage(iteration: Iteration, sampled: Sampled, policy: PolicyRef, evaluation: EvaluationRef) -> dict[str, str]:
    campaign, config, parent = iteration.campaign, iteration.config, iteration.policy
    tags = {
        "opsd.role": "candidate",
        "opsd.campaign": campaign.id,
        "opsd.iteration": str(iteration.number),
        "opsd.model_uri": policy.uri,
        "opsd.model_digest": policy.digest,
        "opsd.state_uri": policy.state.uri if policy.state else "",
        "opsd.parent_version": str(parent.version or ""),
        "opsd.parent_digest": parent.digest,
        "opsd.teacher_digest": teacher_ref(iteration).digest,
        "opsd.teacher_weights": config.teacher.weights,
        "opsd.rollouts": json.dumps([shard.uri for shard in sampled.shards]),
        "opsd.rollout_digests": json.dumps([shard.digest[:16] for shard in sampled.shards]),
        "opsd.grades": sampled.graded.uri,
        "opsd.targets": json.dumps([target.uri for target in sampled.targets]),
        "opsd.config": campaign.record.uri,
        "opsd.data": campaign.data.uri,
        "opsd.data_state": as_tag(describe(store(), campaign.data.uri).identity.get("content", {})),
        "opsd.model_state": as_tag(describe(store(), campaign.initial.uri).identity.get("content", {})),
        "opsd.evaluation": evaluation.uri,
        "opsd.git_revision": git_revision(),
        "opsd.acceptance": campaign.initial.acceptance,
        "opsd.trust_remote_code": str(config.model.trust_remote_code),
        "prefect.flow_run_id": campaign.flow_run_id or "",
    }
    if iteration.teachers:
        named = zip(config.teacher.sources, iteration.teachers, strict=True)
        tags["opsd.teachers"] = json.dumps([[source, peer.uri, peer.digest[:16]] for source, peer in named])
    if campaign.rehearsal:
        tags["opsd.rehearsal"] = campaign.rehearsal.uri
    if campaign.pretraining:
        tags[PRETRAINED_FROM] = campaign.initial.digest
    return tags


_NO_LABELS = (
    "The validation items have no answers, so accuracy is unknown and the gate cannot promote. Compare lengths, entropies and "
    "completions of both evaluations; a person can promote with the opsd/promote deployment."
)


@task(name="gate", task_run_name="gate-it{iteration.number}", **STAGE)
def decide(iteration: Iteration, candidate: PolicyRef, before: EvaluationRef, after: EvaluationRef) -> VerdictRef:
    """The gate's verdict from the two stored evaluations, carried out once: the alias moves or it does not.

    IntegrityError when the candidate that would become champion is not stored whole: triggered again, its stages make it again.

    `before` is the champion's evaluation, `after` the candidate's.
    """
    config, champion = iteration.config, iteration.champion
    verdict = gate.decide(
        read_outcomes(local(after) / "outcomes.parquet"),
        read_outcomes(local(before) / "outcomes.parquet"),
        config.promotion,
        candidate_version=str(candidate.version),
        champion_version=str(champion.version),
        candidate_evaluation=after.conditions_digest,
        champion_evaluation=before.conditions_digest,
        iterations=config.iterations,
        max_repetition=config.filter.max_repetition,
    )
    if "eval/accuracy" not in after.metrics:
        verdict = replace(verdict, promote=False, metric="accuracy (unknown: no labels)", reasons=(_NO_LABELS,))
    identity = {
        "campaign": iteration.campaign.id,
        "iteration": iteration.number,
        "evaluations": [after.digest, before.digest],
        "versions": [candidate.version, champion.version],
        "promotion": config.promotion.model_dump(),
        "iterations": config.iterations,
        "max_repetition": config.filter.max_repetition,
    }
    artifact, _ = produce("verdicts", identity, partial(_write_verdict, verdict))
    promoted, reasons = _carry_out(iteration, verdict, Ref(uri=artifact.uri), candidate)
    return VerdictRef(
        uri=artifact.uri,
        promote=promoted,
        summary=verdict.markdown(),
        reasons=reasons,
        champion=candidate if promoted else champion,
    )


def _write_verdict(verdict: Verdict, folder: Path) -> dict[str, Any]:
    (folder / "verdict.json").write_text(json.dumps(verdict.as_dict(), indent=1))
    (folder / "verdict.md").write_text(verdict.markdown())
    return {"promote": verdict.promote}


def _carry_out(iteration: Iteration, verdict: Verdict, stored: Ref, candidate: PolicyRef) -> tuple[bool, list[str]]:
    campaign, champion = iteration.campaign, iteration.champion
    registry, name, mode = tracker(), campaign.name, campaign.config.promotion.mode
    if verdict.promote and mode == "auto" and "opsd.gate" not in registry.version_tags(name, candidate.version):
        check_version(name, candidate.version)
    with champion_moves(name):
        tags = registry.version_tags(name, candidate.version)
        if "opsd.gate" in tags:  # carried out before a crash or by an earlier trigger of the same campaign
            return tags["opsd.gate"] == "promoted", list(verdict.reasons)
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
            until = ask_a_person(campaign, candidate, stored, "; ".join(reasons))
            outcome, extra = "awaiting approval", {"opsd.approval": f"refused unless approved until {until}"}
            reasons.append(f"promotion.mode=approve: the gate agrees; an opsd/promote run waits for approval until {until}.")
        elif verdict.promote:
            who = f"gate of campaign {campaign.id}"
            registry.promote(name, candidate.version, "; ".join(reasons), who, expected_champion=champion.version)
            outcome = "promoted"
        # Last, because it says that the verdict has been carried out.
        registry.set_version_tags(name, candidate.version, extra | verdict.tags() | {"opsd.gate": outcome})
    get_run_logger().info("version %s %s: %s", candidate.version, outcome, "; ".join(reasons))
    return outcome == "promoted", reasons
