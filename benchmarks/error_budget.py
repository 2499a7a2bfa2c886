"""What a model's life of campaigns promotes, with one alpha for all of it and with one for each campaign.

    python benchmarks/error_budget.py [--lives 1000] [--campaigns 50]

One decision a campaign, the exact McNemar test of the gate on independent items. A candidate answers each item as the champion
does but for churn: it turns right with churn/2 + gain and wrong with churn/2. Null: no candidate is better. Improving: each is
better by five points than the champion that it meets. Rare: one campaign in five is. Where a set is used again, every candidate
answers the same items, so lucky items stay lucky. Prints Markdown.
"""

import argparse
import math
from dataclasses import dataclass, replace

import numpy as np

from opsd_core.judgement.budget import Decision, next_decision
from opsd_core.judgement.statistics import mcnemar

ALPHA, CHURN, GAIN = 0.05, 0.1, 0.05
BETTER = {"null": lambda number: False, "improving": lambda number: True, "rare": lambda number: number % 5 == 4}


@dataclass
class Life:
    """What one life promoted."""

    wrong: int = 0
    right: int = 0
    better: int = 0
    """Candidates that were better."""


def lived(rule: str, kind: str, campaigns: int, size: int, generator: np.random.Generator) -> Life:
    """One life under a rule: `campaign`, `model, unseen items` or `model, same items`."""
    life, history, block = Life(), [], 0
    accuracy, right_P = 0.3, generator.random(size) < 0.3
    for number in range(campaigns):
        better = BETTER[kind](number) and accuracy < 0.9
        life.better += better
        turns_right = (CHURN / 2 + GAIN * better) / (1 - accuracy)
        after_P = np.where(
            right_P, generator.random(size) >= CHURN / 2 / accuracy, generator.random(size) < turns_right
        )
        p_value = mcnemar(int((after_P & ~right_P).sum()), int((right_P & ~after_P).sum()))
        entry = Decision("", number, "", "", 1, ALPHA, ALPHA)
        if rule != "campaign":
            entry = next_decision(history, "", number, (f"{block:04d}a", f"{block:04d}b"), ALPHA)
        history.append(replace(entry, promote=p_value <= entry.level))
        if history[-1].promote:
            life.right, life.wrong = life.right + better, life.wrong + (not better)
            accuracy, right_P = accuracy + GAIN * better, after_P
            if rule != "model, same items":
                block, right_P = block + 1, generator.random(size) < accuracy
    return life


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, default=1000)
    parser.add_argument("--campaigns", type=int, default=50)
    given = parser.parse_args()
    noise = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / given.lives)
    print(f"{given.lives} lives of {given.campaigns} campaigns, alpha = {ALPHA}: up to {noise:.3f} is noise\n")
    print("| candidates | items | alpha holds for | lives that promote one that is no better | of the better ones, promoted |")
    print("|---|---|---|---|---|")
    for kind in BETTER:
        for size in (200, 1000):
            for rule in ("campaign", "model, unseen items", "model, same items"):
                generator = np.random.default_rng([len(kind), size, len(rule)])
                lives = [lived(rule, kind, given.campaigns, size, generator) for _ in range(given.lives)]
                wrong, better = sum(life.wrong > 0 for life in lives) / given.lives, sum(life.better for life in lives)
                share = f"{sum(life.right for life in lives) / better:.3f}" if better else "–"
                print(f"| {kind} | {size} | {rule} | {wrong:.3f} | {share} |")


if __name__ == "__main__":
    main()
