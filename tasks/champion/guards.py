"""What a verdict needs of the guards: every comparison with champion and anchor, and what the lineage says of them."""

from collections.abc import Sequence
from typing import Any, Literal

from opsd_core.judgement.guard_result import GuardResult
from opsd_core.judgement.guards import Answered, judge_guard
from opsd_core.records.outcomes import read_outcomes
from tasks.context import local
from tasks.refs import EvaluationRef, GuardAnswers, Iteration, PolicyRef


def guard_results(iteration: Iteration, candidate: PolicyRef, guards: Sequence[GuardAnswers]) -> list[GuardResult]:
    """Every guard against the champion and against the anchor."""
    promotion, results = iteration.config.promotion, []
    for guard, found in zip(promotion.guards, guards, strict=True):
        after = _answers("candidate", candidate.version, found.candidate)
        for role, version, ref in (
            ("champion", iteration.champion.version, found.champion),
            ("anchor", found.anchor_version, found.anchor),
        ):
            if ref is not None:
                results.append(judge_guard(guard, after, _answers(role, version, ref), promotion.guard_alpha))
    return results


def _answers(role: Literal["candidate", "champion", "anchor"], version: int | None, ref: EvaluationRef) -> Answered:
    return Answered(role, str(version), read_outcomes(local(ref) / "outcomes.parquet"), ref.conditions_digest)


def answered_in_lineage(iteration: Iteration, guards: Sequence[GuardAnswers]) -> dict[str, Any]:
    """By guard: where its items come from, which they are, and where the answers of both sides are."""
    sources = {guard.title: guard.data.source for guard in iteration.config.promotion.guards}
    return {
        found.guard: {
            "source": sources[found.guard],
            "items": found.items.items_digest,
            "stored": found.items.uri,
            "evaluation": found.candidate.uri,
            "champion_evaluation": found.champion.uri,
            "anchor_evaluation": found.anchor.uri if found.anchor else None,
        }
        for found in guards
    }
