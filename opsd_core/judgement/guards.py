"""Guards of the gate: what the candidate must not lose elsewhere, as one-sided tests of non-inferiority on paired items.

    held           the upper limit of the drop lies under max_drop
    violated       its lower limit lies above 0 and the estimate above max_drop
    inconclusive   neither; promotion.guards[].inconclusive says whether that refuses or warns

Limits are one-sided at promotion.guard_alpha each: of right and wrong answers Tango's (`tango.py`), of likelihoods Hall's
(`skewed_mean.py`). A candidate must be held by every guard against the champion and against the anchor. It is promoted wrongly
only if it passes them all, so the chance of that is at most guard_alpha for any one drop of max_drop, however many guards there
are (intersection-union test: Berger 1982, Technometrics 24, 295-300); no correction is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from opsd_core.config.guards import GuardConfig
from opsd_core.errors import DataError
from opsd_core.judgement.guard_result import GuardResult
from opsd_core.judgement.metrics import group_by_item
from opsd_core.judgement.skewed_mean import mean_limits
from opsd_core.judgement.tango import tango_limits
from opsd_core.judgement.verdict import Verdict
from opsd_core.records.outcomes import ItemOutcome


@dataclass(frozen=True)
class Answered:
    """One version's answers to a guard's items."""

    role: Literal["candidate", "champion", "anchor"]
    version: str
    outcomes: Sequence[ItemOutcome]
    conditions: str
    """Digest of items, template, tokenizer, grader and limits."""


def judge_guard(guard: GuardConfig, after: Answered, before: Answered, alpha: float) -> GuardResult:
    """The candidate `after` against champion or anchor `before`, at one-sided level `alpha`.

    DataError when the two were not measured under the same conditions, or not on the same items.
    """
    after_P, before_P = _values(guard, after), _values(guard, before)
    if after.conditions != before.conditions or after_P.keys() != before_P.keys():
        raise DataError(
            f"{guard.field}: {before.role} (version {before.version}) and candidate were measured under other conditions "
            f"({before.conditions:.12} and {after.conditions:.12}: other items, grader, template, tokenizer or length), so their "
            "difference means nothing. Trigger the campaign again, which measures both with the present ones; an anchor of "
            "another tokenizer or chat template is never compared: set promotion.anchor to a later version or to none."
        )
    drops_P = np.array([before_P[item] - after_P[item] for item in sorted(before_P)])
    wins, losses = int((drops_P < 0).sum()), int((drops_P > 0).sum())
    if guard.measure == "likelihood":
        low, high = mean_limits(drops_P, alpha)
    else:
        low, high = tango_limits(wins, losses, len(drops_P), alpha)
    return GuardResult(
        guard=guard.title,
        role="anchor" if before.role == "anchor" else "champion",
        version=before.version,
        measure=guard.measure,
        before=_mean(before_P),
        after=_mean(after_P),
        drop=float(drops_P.mean()),
        low=low,
        high=high,
        level=alpha,
        max_drop=guard.max_drop,
        num_items=len(drops_P),
        wins=wins,
        losses=losses,
        inconclusive=guard.inconclusive,
        conditions=after.conditions,
    )


def with_guards(verdict: Verdict, results: Sequence[GuardResult]) -> Verdict:
    """The verdict of the gate with its guards: promoted only where no guard refuses, with the reason of each that does."""
    refused = [result.sentence for result in results if result.refuses]
    warned = [result.sentence for result in results if result.verdict == "inconclusive" and not result.refuses]
    promote = verdict.promote and not refused
    held = sorted({result.guard for result in results} - {r.guard for r in results if r.verdict != "held"})
    fine = [f"Guards held: {', '.join(held)}."] if held and promote else []
    reasons = refused if verdict.promote and refused else [*verdict.reasons, *fine, *refused, *warned]
    return replace(verdict, promote=promote, reasons=tuple(reasons), guards=tuple(results))


def _values(guard: GuardConfig, answered: Answered) -> dict[str, float]:
    """Per item 1 or 0 for a right or wrong answer, or the text's log-likelihood per token."""
    mode = "given" if guard.measure == "likelihood" else "greedy"
    items = group_by_item(answered.outcomes, mode)
    if not items:
        raise DataError(f"{guard.field}: the evaluation of version {answered.version} holds no {mode} outcomes.")
    return {item: group[0].score if mode == "given" else float(group[0].correct) for item, group in items.items()}


def _mean(values: dict[str, float]) -> float:
    return float(np.mean(list(values.values())))
