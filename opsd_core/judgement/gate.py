"""The promotion gate: a pure function of two evaluations and the rules.

A candidate is promoted when every check holds: a paired one-sided test on the same items, a smallest gain, and guard
rails on length, truncation, repetition and entropy. N iterations whose candidates are all equal to the champion would
promote at least one with a chance of 1 - (1 - alpha)^N if they were independent (six at .05: 26 %), and of at most N * alpha
however they depend on each other. So each is tested at alpha / N (Bonferroni; Dunn 1961, J. Am. Stat. Assoc. 56) and alpha holds
for the campaign, unless promotion.alpha_per is iteration; with alpha_per=model it holds for the model's whole life, over all
its campaigns (`opsd_core.judgement.budget`). With promotion.test=sequential fewer items may have been answered than were planned
(`opsd_core.judgement.sequential`). Power at the shipped sizes: `benchmarks/gate_calibration.py`, `benchmarks/sequential.md`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opsd_core.config import PromotionConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.judgement.budget import Decision, Wear, set_share
from opsd_core.judgement.metrics import (
    group_by_item,
    mean_entropy,
    mean_length,
    repetition_fraction,
    truncated_fraction,
)
from opsd_core.judgement.sequential import last_look
from opsd_core.judgement.statistics import mcnemar, paired_bootstrap
from opsd_core.judgement.stopping import stopping
from opsd_core.judgement.verdict import Check, Verdict
from opsd_core.records.outcomes import ItemOutcome, Mode

Items = dict[str, list[ItemOutcome]]


def level(config: PromotionConfig, iterations: int) -> float:
    """The level of one decision of a campaign with so many: alpha / iterations, or alpha when it holds for each alone.

    With alpha_per=model it is that of a model's first decision; its ledger gives each one its own (`budget.next_decision`).
    """
    if config.alpha_per == "model":
        return config.alpha * set_share(1) * Wear(0, 0).share
    return config.alpha / iterations if config.alpha_per == "campaign" else config.alpha


def _level_in_words(config: PromotionConfig, iterations: int, decision: Decision | None) -> tuple[float, str]:
    if decision is not None:
        return decision.level, f"this decision's share of the model's alpha = {decision.level:.3g}"
    tested = level(config, iterations)
    if config.alpha_per == "model":
        return tested, f"a first decision's share of the model's alpha = {tested:.3g}"
    if tested == config.alpha:
        return tested, f"promotion.alpha = {tested:g}"
    return tested, f"promotion.alpha / iterations = {config.alpha:g} / {iterations} = {tested:.3g}"


def decide(
    candidate: Sequence[ItemOutcome],
    champion: Sequence[ItemOutcome],
    config: PromotionConfig,
    *,
    candidate_version: str = "candidate",
    champion_version: str = "champion",
    candidate_evaluation: str = "",
    champion_evaluation: str = "",
    iterations: int = 1,
    decision: Decision | None = None,
    max_repetition: float = 10.0,
    planned: int = 0,
    seed: int = 0,
) -> Verdict:
    """Promote the candidate or refuse it.

    iterations: decisions that the campaign makes; they share alpha.
    decision: this one's entry in the model's ledger, whose level holds instead (promotion.alpha_per=model).
    planned, seed: with test=sequential, the items that would have been answered had it not stopped (0 = these) and the seed of
    their order. Gain and guard rails are then those of the answered items.
    candidate_evaluation, champion_evaluation: digests of the items, grader and settings of each evaluation.
    test=mcnemar compares greedy completions; bootstrap and sequential the items' mean correctness over their samples, or greedy
    when there are none. Raises DataError when the two evaluations are not of the same items, grader and settings.
    """
    pairs = paired(candidate, champion, config, (candidate_evaluation, champion_evaluation))
    drawn = derive_seed("gate", candidate_evaluation, candidate_version, champion_version)
    bootstrap = paired_bootstrap(pairs.differences_P, seed=drawn)
    tested_at, bound = _level_in_words(config, iterations, decision)
    p_value, sequential = bootstrap.p_greater, None
    if config.test == "mcnemar":
        p_value = mcnemar(pairs.wins, pairs.losses)
    elif config.test == "sequential":
        found = last_look(pairs.by_item(), planned, seed, tested_at)
        p_value, sequential = found.p_value, stopping(found, tested_at, [outcome.num_tokens for outcome in candidate])
    checks = [
        _at_most("p_value", p_value, tested_at),
        _at_least("gain", bootstrap.mean, config.min_effect, strictly_positive=True),
        *_guard_rails(_flat(pairs.after), _flat(pairs.before), config, max_repetition),
    ]
    numbers = pairs.numbers() | {"p_value": p_value}
    tested = f"{pairs.wins} items better, {pairs.losses} worse, p = {p_value:.4g} > {bound}"
    refused = tuple(_EXPLAIN[check.name](check, tested) for check in checks if not check.passed)
    return Verdict(
        promote=not refused,
        reasons=(*(refused or [_promotion(**numbers, bound=bound)]), *([sequential.in_words()] if sequential else [])),
        checks=tuple(checks),
        candidate_version=candidate_version,
        champion_version=champion_version,
        test=config.test,
        difference=bootstrap.mean,
        interval=(bootstrap.low, bootstrap.high),
        wins=pairs.wins,
        losses=pairs.losses,
        ties=len(pairs.after) - pairs.wins - pairs.losses,
        num_items=len(pairs.after),
        evaluation_digest=candidate_evaluation,
        sequential=sequential,
        **numbers,
    )


def _mode(candidate: Sequence[ItemOutcome], champion: Sequence[ItemOutcome], config: PromotionConfig) -> Mode:
    sampled = any(o.mode == "sampled" for o in candidate) and any(o.mode == "sampled" for o in champion)
    return "sampled" if config.test != "mcnemar" and sampled else "greedy"


@dataclass(frozen=True)
class Pairs:
    """Both sides' outcomes by item, in the mode that the test compares."""

    mode: Mode
    after: Items
    before: Items
    differences_P: np.ndarray
    """Share of right answers, candidate minus champion, of P items by id."""

    @property
    def wins(self) -> int:
        return int((self.differences_P > 0).sum())

    @property
    def losses(self) -> int:
        return int((self.differences_P < 0).sum())

    def by_item(self) -> dict[str, float]:
        """The difference of every item."""
        return dict(zip(self.after, self.differences_P.tolist(), strict=True))

    def numbers(self) -> dict[str, Any]:
        """Name of the metric, and its mean on both sides."""
        samples = len(next(iter(self.after.values())))
        return {
            "metric": "accuracy" if self.mode == "greedy" else f"avg@{samples}",
            "accuracy_before": float(_accuracies(self.before).mean()),
            "accuracy_after": float(_accuracies(self.after).mean()),
        }


def paired(
    candidate: Sequence[ItemOutcome],
    champion: Sequence[ItemOutcome],
    config: PromotionConfig,
    digests: tuple[str, str] = ("", ""),
) -> Pairs:
    """Both evaluations item by item; `digests` of their conditions. DataError when they are not of the same items."""
    mode = _mode(candidate, champion, config)
    after, before = group_by_item(candidate, mode), group_by_item(champion, mode)
    _refuse_unpaired(after, before, *digests)
    return Pairs(mode, after, before, _accuracies(after) - _accuracies(before))


def _refuse_unpaired(after: Items, before: Items, candidate_digest: str, champion_digest: str) -> None:
    if candidate_digest != champion_digest:
        raise DataError(
            f"gate: the candidate was evaluated with {candidate_digest:.12} and the champion with {champion_digest:.12}: "
            "other items, grader or settings, so their difference means nothing. Evaluate the champion again with the "
            "present data, evaluation and grader settings."
        )
    if not after or not before:
        raise DataError("gate: an evaluation has no outcomes of the mode that promotion.test compares.")
    if set(after) != set(before):
        raise DataError(
            f"gate: the evaluations share {len(set(after) & set(before))} items; {len(set(after) - set(before))} are the "
            f"candidate's alone and {len(set(before) - set(after))} the champion's. Evaluate both on the same items."
        )
    sizes = {len(next(iter(items.values()))) for items in (after, before)}
    if len(sizes) > 1:
        raise DataError(f"gate: the evaluations have different numbers of samples per item: {sorted(sizes)}.")


def _accuracies(items: Items) -> np.ndarray:
    return np.array([sum(outcome.correct for outcome in group) / len(group) for group in items.values()])


def _flat(items: Items) -> list[ItemOutcome]:
    return [outcome for group in items.values() for outcome in group]


def _guard_rails(
    after: list[ItemOutcome], before: list[ItemOutcome], config: PromotionConfig, max_repetition: float
) -> list[Check]:
    length_ratio = _ratio(mean_length(after), mean_length(before))
    truncation = truncated_fraction(after) - truncated_fraction(before)
    repetition = repetition_fraction(after, max_repetition) - repetition_fraction(before, max_repetition)
    return [
        _at_most("length_ratio_max", length_ratio, config.max_length_ratio),
        _at_least("length_ratio_min", length_ratio, 1.0 / config.max_length_ratio),
        _at_most("truncation_increase", truncation, config.max_truncation_increase),
        _at_most("repetition_increase", repetition, config.max_repetition_increase),
        _at_least("entropy_ratio", _ratio(mean_entropy(after), mean_entropy(before)), config.min_entropy_ratio),
    ]


def _ratio(after: float, before: float) -> float:
    """after / before; 1 when both are 0, and a large finite number when only `before` is (JSON has no infinity)."""
    if before == 0.0:
        return 1.0 if after == 0.0 else 1e9
    return after / before


def _at_most(name: str, value: float, threshold: float) -> Check:
    return _check(name, value, "<=", threshold, value <= threshold + 1e-12)


def _at_least(name: str, value: float, threshold: float, strictly_positive: bool = False) -> Check:
    if strictly_positive and threshold <= 0.0:
        return _check(name, value, ">", 0.0, value > 0.0)
    return _check(name, value, ">=", threshold, value >= threshold - 1e-12)


def _check(name: str, value: float, rule: str, threshold: float, passed: bool) -> Check:
    """A value that is not a number never passes."""
    return Check(name, value, rule, threshold, passed and math.isfinite(value))


def _promotion(metric: str, accuracy_before: float, accuracy_after: float, p_value: float, bound: str) -> str:
    rise = f"{metric} rose from {accuracy_before:.3f} to {accuracy_after:.3f}"
    return f"{rise} (p = {p_value:.4g} <= {bound}) and every guard rail holds."


_EXPLAIN = {
    "p_value": lambda c, tested: f"Not significant: {tested}.",
    "gain": lambda c, tested: (
        f"The gain of {c.value:+.4f} is not above 0."
        if c.rule == ">"
        else f"The gain of {c.value:+.4f} is below promotion.min_effect = {c.threshold:g}."
    ),
    "length_ratio_max": lambda c, tested: (
        f"Completions became {c.value:.2f} times as long; promotion.max_length_ratio = {c.threshold:g}."
    ),
    "length_ratio_min": lambda c, tested: (
        f"Completions shrank to {c.value:.2f} of their length; 1 / promotion.max_length_ratio = {c.threshold:.3g}."
    ),
    "truncation_increase": lambda c, tested: (
        f"The truncated share rose by {c.value:.3f}; promotion.max_truncation_increase = {c.threshold:g}."
    ),
    "repetition_increase": lambda c, tested: (
        f"The repetitive share rose by {c.value:.3f}; promotion.max_repetition_increase = {c.threshold:g}."
    ),
    "entropy_ratio": lambda c, tested: (
        f"Token entropy fell to {c.value:.3g} of the champion's; promotion.min_entropy_ratio = {c.threshold:g}."
    ),
}
