"""How many items a guard needs: to be able to hold at all, and to hold an equal candidate with a power of 80 %.

Right and wrong answers: an equal candidate answers a share D of the items otherwise, half of them better. With z of Tango's test

    power(n) = Phi((sqrt(n) max_drop - z_alpha s0) / s1),   s1^2 = D,   s0^2 = 2 q + max_drop (1 - max_drop)

q: the most likely chance of a win under a drop of max_drop, from counts of D / 2 each (`tango.py`). Without any changed item the
upper limit is z_alpha^2 / (n + z_alpha^2), so fewer than z_alpha^2 (1 - max_drop) / max_drop items never hold.
Likelihoods: power(n) = Phi(sqrt(n) max_drop / s - z_alpha), s = spread of the texts' drops.
"""

import math

from scipy.special import ndtr, ndtri

from opsd_core.config.guards import GuardConfig
from opsd_core.judgement.tango import tango_limits

ASSUMED_CHANGED = 0.10
"""Share of items that an equal candidate is assumed to answer otherwise, half of them better."""
ASSUMED_SPREAD = 0.10
"""Standard deviation of the texts' drops, in nats per token, that is assumed."""
POWER = 0.8
FEWEST_TEXTS = 20
"""Texts below which limits of a mean likelihood are not trusted."""


def fewest_items(guard: GuardConfig, alpha: float) -> int:
    """Items below which the guard can never hold, whatever the candidate answers."""
    if guard.measure == "likelihood":
        return FEWEST_TEXTS
    square = float(ndtri(alpha)) ** 2
    number = max(1, math.floor(square * (1.0 - guard.max_drop) / guard.max_drop))
    while tango_limits(0, 0, number, alpha)[1] >= guard.max_drop:
        number += 1
    return number


def power(guard: GuardConfig, number: int, alpha: float) -> float:
    """Chance that an equal candidate is held with so many items, under the assumptions above."""
    largest, equal = _spreads(guard)
    return float(ndtr((math.sqrt(number) * guard.max_drop + float(ndtri(alpha)) * largest) / equal))


def needed_items(guard: GuardConfig, alpha: float) -> int:
    """Items with which an equal candidate is held with a chance of 80 %, under the assumptions above."""
    largest, equal = _spreads(guard)
    root = (-float(ndtri(alpha)) * largest + float(ndtri(POWER)) * equal) / guard.max_drop
    return max(math.ceil(root**2), fewest_items(guard, alpha))


def size_in_words(guard: GuardConfig, number: int, alpha: float) -> str:
    """What so many items can show, for the log before a campaign starts."""
    if guard.measure == "likelihood":
        assumed = f"drops of single texts spread by {ASSUMED_SPREAD:g} nats per token"
        unit = f"{guard.max_drop:g} nats per token"
    else:
        assumed = f"it answers {ASSUMED_CHANGED:.0%} of the items otherwise, half of them better"
        unit = f"{100 * guard.max_drop:g} points"
    return (
        f"guard {guard.title}: {number} items; a candidate that lost nothing is held, a drop of {unit} ruled out, with a chance "
        f"of {power(guard, number, alpha):.0%} if {assumed}; {POWER:.0%} need {needed_items(guard, alpha)} items, fewer than "
        f"{fewest_items(guard, alpha)} never hold"
    )


def _spreads(guard: GuardConfig) -> tuple[float, float]:
    """Standard deviation of one item's drop when it is max_drop, and when it is 0."""
    if guard.measure == "likelihood":
        return ASSUMED_SPREAD, ASSUMED_SPREAD
    drop, changed = guard.max_drop, ASSUMED_CHANGED
    b, c = 2.0 * drop - changed, -changed / 2.0 * drop * (1.0 - drop)
    chance = (math.sqrt(b * b - 8.0 * c) - b) / 4.0
    return math.sqrt(2.0 * chance + drop * (1.0 - drop)), math.sqrt(changed)
