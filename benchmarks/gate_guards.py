"""How often guards are wrong, how often they let an equal candidate pass, what the anchor stops: `gate_calibration.py --guards`.

Right and wrong answers by enumeration of all counts, likelihoods and lines of promotions by simulation. Nothing of the gate is
approximated: limits are `opsd_core.judgement`'s.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import binom

from opsd_core.config.guards import GuardConfig
from opsd_core.judgement.guard_sizes import fewest_items
from opsd_core.judgement.skewed_mean import mean_limits
from opsd_core.judgement.tango import tango_limits

ALPHA, SIZES, MAX_DROPS, CHANGED = 0.05, (60, 100, 150, 200, 400), (0.02, 0.05, 0.1), (0.0, 0.05, 0.1, 0.2)
LINES, STEPS, LOSS, CHURN = 500, 10, 0.02, 0.10
SAMPLES = 4000


def chance_of_holding(number: int, max_drop: float, drop: float, changed: float) -> float:
    """Exact P(held) when each item is lost with probability drop + changed / 2 and won with changed / 2."""
    lost, won = drop + changed / 2.0, changed / 2.0
    total = 0.0
    for losses in range(number + 1):
        of_losses = binom.pmf(losses, number, lost)
        if of_losses < 1e-10:
            continue
        fewest = _fewest_wins(number, losses, max_drop)
        if fewest is not None:
            total += of_losses * binom.sf(fewest - 1, number - losses, won / (1.0 - lost))
    return float(total)


def _fewest_wins(number: int, losses: int, max_drop: float) -> int | None:
    """Wins from which so many losses are held; the upper limit falls with every win. None when no number is enough."""
    low, high = 0, number - losses
    if tango_limits(high, losses, number, ALPHA)[1] >= max_drop:
        return None
    while low < high:
        middle = (low + high) // 2
        if tango_limits(middle, losses, number, ALPHA)[1] < max_drop:
            high = middle
        else:
            low = middle + 1
    return low


def of_answers() -> Iterator[str]:
    """Two tables: a drop of exactly max_drop, and none."""
    for title, lost in (("a drop of exactly max_drop is held (asked: .05)", True), ("an equal candidate is held", False)):
        yield f"\n**Chance that {title}**, by share of items that are answered otherwise by chance\n"
        yield "| max_drop | items | " + " | ".join(f"{changed:.0%}" for changed in CHANGED) + " |"
        yield "|---|---|" + "---|" * len(CHANGED)
        for max_drop in MAX_DROPS:
            fewest = fewest_items(GuardConfig(suite="tiny_copying", max_drop=max_drop), ALPHA)
            for number in (size for size in SIZES if size >= fewest):
                chances = [chance_of_holding(number, max_drop, max_drop if lost else 0.0, changed) for changed in CHANGED]
                yield f"| {max_drop:g} | {number} | " + " | ".join(f"{chance:.3f}" for chance in chances) + " |"


def of_texts() -> Iterator[str]:
    """One table: how often the upper limit of a mean drop lies under the true one."""
    generator = np.random.default_rng(0)
    draws: dict[str, tuple[Callable[[int], np.ndarray], float]] = {
        "normal": (lambda n: generator.normal(size=n), 0.0),
        "exponential": (lambda n: generator.exponential(size=n), 1.0),
        "lognormal, sigma .7": (lambda n: np.exp(0.7 * generator.normal(size=n)), float(np.exp(0.245))),
        "heavy tails (t, 3 degrees)": (lambda n: generator.standard_t(3, size=n), 0.0),
    }
    sizes = (20, 32, 64, 200)
    yield f"\n**Upper limit of a mean likelihood's drop under the true drop** (asked: .05), {SAMPLES:,} samples\n"
    yield "| drops of single texts | " + " | ".join(f"{number} texts" for number in sizes) + " |"
    yield "|---|" + "---|" * len(sizes)
    for title, (draw, mean) in draws.items():
        under = [sum(mean_limits(draw(number), ALPHA)[1] < mean for _ in range(SAMPLES)) / SAMPLES for number in sizes]
        yield f"| {title} | " + " | ".join(f"{share:.3f}" for share in under) + " |"


def erosion(number: int, anchored: bool, seed: int, max_drop: float = 0.05) -> tuple[int, float]:
    """(promotions, points lost in all) of one line of ten candidates that each lose two points against their champion."""
    generator = np.random.default_rng(seed)
    anchor_P = champion_P = generator.random(number) < 0.9
    promotions, true_loss = 0, 0.0
    for _ in range(STEPS):
        share = 0.9 - true_loss
        lost_P = generator.random(number) < (CHURN / 2 + LOSS) / share
        won_P = generator.random(number) < (CHURN / 2) / (1.0 - share)
        candidate_P = np.where(champion_P, ~lost_P, won_P)
        sides = [champion_P, anchor_P] if anchored else [champion_P]
        if all(_held(candidate_P, side_P, max_drop) for side_P in sides):
            champion_P, promotions, true_loss = candidate_P, promotions + 1, true_loss + LOSS
    return promotions, 100 * true_loss


def _held(after_P: np.ndarray, before_P: np.ndarray, max_drop: float) -> bool:
    wins, losses = int((after_P & ~before_P).sum()), int((before_P & ~after_P).sum())
    return tango_limits(wins, losses, after_P.size, ALPHA)[1] < max_drop


def of_lines() -> Iterator[str]:
    """One table: what ten candidates that each lose two points do to a model, with and without an anchor."""
    yield (
        f"\n**Slow erosion**: {LINES} lines of {STEPS} candidates, each {100 * LOSS:g} points worse than its champion, "
        f"max_drop .05, {CHURN:.0%} of the items answered otherwise by chance\n"
    )
    yield "| items | guards compare with | promotions in a line (mean, most) | points lost in the end (mean, most) |"
    yield "|---|---|---|---|"
    for number in (400, 1000, 2000):
        for anchored in (False, True):
            found = [erosion(number, anchored, seed) for seed in range(LINES)]
            promotions, lost = (np.array(values) for values in zip(*found, strict=True))
            whom = "champion and anchor" if anchored else "champion alone"
            yield f"| {number} | {whom} | {promotions.mean():.2f}, {promotions.max()} | {lost.mean():.1f}, {lost.max():.0f} |"


def tables() -> Iterator[str]:
    """Every line of the tables."""
    yield from of_answers()
    yield from of_texts()
    yield from of_lines()
