"""Limits of the drop between two shares of right answers to the same items.

    d = P(right before, wrong after) - P(wrong before, right after)          the drop of the share, in [-1, 1]

    z(d) = (losses - wins - n d) / sqrt(n (2 q(d) + d (1 - d)))
    q(d) = (sqrt(B^2 - 4 A C) - B) / (2 A),   A = 2 n,  B = (2 n - losses + wins) d - losses - wins,  C = -wins d (1 - d)

q is the most likely chance of a win when the drop is d. z falls in d; a one-sided limit at level alpha is where it reaches
+- the normal quantile. Source: Tango 1998, Statistics in Medicine 17, 891-908. By enumeration a guard of level .05 holds a drop
of exactly max_drop with a chance of at most .06 at 30 to 1,000 items, of .05 on average (`benchmarks/gate_calibration.md`).
"""

import math

from scipy.special import ndtri

_HALVINGS = 60


def tango_limits(wins: int, losses: int, number: int, alpha: float) -> tuple[float, float]:
    """(low, high): one-sided limits of the drop, each at level `alpha`; together an interval of 1 - 2 alpha.

    wins, losses: items that are right only after, only before; number: all items. ValueError without items, or with more
    changed items than items.
    """
    if number < 1 or min(wins, losses) < 0 or wins + losses > number:
        raise ValueError(f"tango_limits: wins={wins} and losses={losses} must be parts of at least one item; got {number}")
    quantile = -float(ndtri(alpha))
    return _where(wins, losses, number, quantile), _where(wins, losses, number, -quantile)


def score(drop: float, wins: int, losses: int, number: int) -> float:
    """z(d): how far the observed counts lie above a drop of d, in standard deviations; infinite where they cannot occur."""
    a, c = 2.0 * number, -wins * drop * (1.0 - drop)
    b = (2.0 * number - losses + wins) * drop - losses - wins
    chance = (math.sqrt(max(0.0, b * b - 4.0 * a * c)) - b) / (2.0 * a)
    above, variance = losses - wins - number * drop, number * (2.0 * chance + drop * (1.0 - drop))
    if abs(above) < 1e-12:
        return 0.0
    return above / math.sqrt(variance) if variance > 1e-15 else math.copysign(math.inf, above)


def _where(wins: int, losses: int, number: int, value: float) -> float:
    """The drop at which z has this value, by halving."""
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if score(middle, wins, losses, number) > value:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0
