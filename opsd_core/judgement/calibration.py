"""Does the gate keep its error rate, and what does it see? Whole campaigns of decisions on simulated evaluations.

Every simulated item has an outcome for the champion and one for the candidate; both have the same chance of being right
when the candidate is null, and `gain` more for the candidate otherwise. A campaign promotes when any of its iterations
does. Nothing of the gate is approximated: the decision is `opsd_core.judgement.gate.decide`, guard rails included.
"""

from collections.abc import Iterator

import numpy as np

from opsd_core.config import PromotionConfig
from opsd_core.judgement.gate import decide
from opsd_core.judgement.verdict import Verdict
from opsd_core.records.outcomes import ItemOutcome


def simulated_campaigns(
    config: PromotionConfig,
    num_campaigns: int,
    num_items: int,
    *,
    accuracy: float,
    churn: float,
    gain: float = 0.0,
    iterations: int = 1,
    seed: int = 0,
) -> Iterator[list[Verdict]]:
    """The decisions of every campaign: `iterations` candidates, each against the same champion on the same items.

    accuracy  the champion's share of right items
    churn     share of items that a retrained model answers differently by chance, half of them gained and half lost
    gain      true difference in accuracy on top; items turn right with probability gain + churn/2, wrong with churn/2
    """
    generator = np.random.default_rng(seed)
    for campaign in range(num_campaigns):
        right_P = generator.random(num_items) < accuracy
        before, decisions = _outcomes(right_P), []
        for iteration in range(iterations):
            flips_right_P = generator.random(num_items) < (gain + churn / 2.0) / max(1.0 - accuracy, 1e-9)
            flips_wrong_P = generator.random(num_items) < (churn / 2.0) / max(accuracy, 1e-9)
            after_P = np.where(right_P, ~flips_wrong_P, flips_right_P)
            decisions.append(
                decide(
                    _outcomes(after_P),
                    before,
                    config,
                    candidate_version=f"{campaign}.{iteration}",
                    champion_version="champion",
                    candidate_evaluation="simulated",
                    champion_evaluation="simulated",
                    iterations=iterations,
                )
            )
        yield decisions


def promoting(campaigns: Iterator[list[Verdict]]) -> tuple[int, int]:
    """(campaigns that promote at least one candidate, campaigns)."""
    promoted = [any(verdict.promote for verdict in decisions) for decisions in campaigns]
    return sum(promoted), len(promoted)


def _outcomes(right_P: np.ndarray) -> list[ItemOutcome]:
    return [
        ItemOutcome(
            example_id=f"{item:05d}",
            mode="greedy",
            sample_index=0,
            correct=bool(right),
            score=float(right),
            extracted="x",
            num_tokens=4,
            truncated=False,
            repetition=1.0,
            mean_entropy=0.5,
            text="",
        )
        for item, right in enumerate(right_P)
    ]
