"""A paired test that may stop at any item: betting on the items that only one side gets right.

Every item has a difference d in [-1, 1], candidate minus champion: 1, 0 or -1 for single answers, a fraction for the means of
several samples. Null hypothesis of the bets: given the items before, E[d] <= 0; of single answers, the candidate wins at most
half of the items that only one side gets right. Of fractions the exact test of all items supposes more, as test=bootstrap does:
that the two sides could change places item by item. A bettor who starts with 1 and stakes the share lambda of what he has on
"better" has

    K_t(lambda) = prod_{i <= t} (1 + lambda d_i),      0 <= lambda <= 1

after t items, which does not grow on average under the null. So neither does his wealth when he spreads the 1 evenly over all
lambda; with w wins and l losses it has a closed form (theta = (1 + lambda) / 2 is uniform on (1/2, 1)):

    K_t = int_0^1 K_t(lambda) dlambda = int_0^1 (1 + lambda)^w (1 - lambda)^l dlambda
        = 2^(w+l+1) / ((w + l + 1) C(w+l, w)) * P(Bin(w + l + 1, 1/2) <= w)

P(K_t >= 1/a for any t) <= a (Ville 1939). Wealth alone sees less than the fixed-size test when all items have been answered (.29
against .53 at 150 items, a gain of 8 points and churn of 20 %: `benchmarks/sequential.md`), so a fifth of the level is bet and
the rest kept for an exact test of all num_items, whose number is fixed before:

    promote when K_t >= 1 / (level / 5) at any t,  or  p_N <= level * 4/5 at t = N = num_items
    p = min(1, 5 min_t 1/K_t),  at N also at most p_N * 5/4          promoted when p <= level

p_N is the exact sign test (fractions: random signs, exactly). By the union bound the null is promoted with a chance of at most
`level` however one stops; K_t / 5, plus 1/level when p_N decides, is an e-process. Stopping for a reason that refuses can only
lower that chance.

Sources. Bets: Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS-B 86 (arXiv
2010.09686); optional stopping: Gruenwald, de Heide & Koolen 2024, "Safe testing", JRSS-B 86 (arXiv 1906.07801); a bound that is
kept for the last observation: Koning & van Meer 2025 (arXiv 2501.03982), who spend the whole level there.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import bdtr, betaln, ndtr, ndtri

from opsd_core.digest import digest
from opsd_core.judgement.statistics import mcnemar
from opsd_core.judgement.stopping import FUTILE, Look

BET = 0.2
"""Share of the level that is bet; the rest is kept for the exact test of all items."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_STAKES, _SPREAD = (1.0 + _NODES) / 2.0, _WEIGHTS / 2.0
"""Stakes lambda and what is put on each, where differences are fractions: a finite mixture is as valid as the integral."""
_MOST_SAMPLES = 256


def order_of(seed: int, example_ids: list[str]) -> list[str]:
    """The ids in the order in which they are answered: drawn from `seed`, whatever order or meaning ids have."""
    return sorted(example_ids, key=lambda example_id: digest(["sequential", seed, example_id]))


def log_wealth(wins: np.ndarray | int, losses: np.ndarray | int) -> np.ndarray:
    """log K of the bets on single answers, of any shape; -inf where it is below about 1e-300."""
    wins, losses = np.asarray(wins, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    discordant = wins + losses
    with np.errstate(divide="ignore"):
        above = np.log(bdtr(wins, (discordant + 1).astype(np.int64), 0.5))
    return (discordant + 1) * math.log(2.0) + betaln(wins + 1, losses + 1) + above


def wealth_path(differences_P: np.ndarray) -> np.ndarray:
    """log K after each of P items, from their differences in the order of answering."""
    differences_P = np.asarray(differences_P, dtype=np.float64)
    if _single(differences_P):
        return log_wealth(np.cumsum(differences_P > 0), np.cumsum(differences_P < 0))
    log_PK = np.cumsum(np.log1p(differences_P[:, None] * _STAKES), axis=0)
    top_P = log_PK.max(axis=1)
    return top_P + np.log(np.exp(log_PK - top_P[:, None]) @ _SPREAD)


def sign_flip(differences_P: np.ndarray) -> float:
    """Exact one-sided p of the items' differences: P(sum of randomly signed ones >= their sum).

    For single answers this is McNemar's exact test. Differences are multiples of 1/n for an n up to 256, as means of n samples
    are; ValueError otherwise. Cost: items times the sum of n |d|.
    """
    differences_P = np.asarray(differences_P, dtype=np.float64)
    if _single(differences_P):
        return mcnemar(int((differences_P > 0).sum()), int((differences_P < 0).sum()))
    sizes_P = _whole_numbers(differences_P)
    total, mean_of_plus = int(np.abs(sizes_P).sum()), np.zeros(int(np.abs(sizes_P).sum()) + 1)
    mean_of_plus[0] = 1.0  # distribution of the sum of the sizes that keep a plus
    reached = 0
    for size in np.abs(sizes_P[sizes_P != 0]):
        shifted = 0.5 * mean_of_plus[: reached + 1]
        mean_of_plus[: reached + 1] *= 0.5
        mean_of_plus[size : size + reached + 1] += shifted
        reached += int(size)
    least = (total + int(sizes_P.sum())) // 2
    return min(1.0, float(mean_of_plus[least:].sum()))


def _whole_numbers(differences_P: np.ndarray) -> np.ndarray:
    """The differences times the smallest n that makes all of them whole."""
    for samples in range(1, _MOST_SAMPLES + 1):
        scaled_P = differences_P * samples
        if np.abs(scaled_P - np.round(scaled_P)).max(initial=0.0) < 1e-6:
            return np.round(scaled_P).astype(np.int64)
    raise ValueError(f"sign_flip: the differences are no means of up to {_MOST_SAMPLES} samples: {differences_P[:5]} ...")


def _single(differences_P: np.ndarray) -> bool:
    return bool(np.isin(differences_P, (-1.0, 0.0, 1.0)).all())


def chance_of_promotion(
    total: np.ndarray | float, squares: np.ndarray | float, answered: int, num_items: int, level: float
) -> np.ndarray:
    """About how likely the exact test of all items promotes, if the rest goes as the items so far.

    total, squares: sums of d and d^2 over the answered items. One win and one loss are added, so that a few first items say
    little; m and v are then the means of d and d^2. The sum at the end is taken as normal around total + r m with variance
    r (v - m^2) (1 + r / n), for n answered and r remaining items; needed is z sqrt(v N), P(normal > z) = 4/5 level. That the
    bets may promote earlier is left out. Used to give up alone, which needs no exactness.
    """
    seen, left = answered + 2, num_items - answered
    mean, square = total / seen, (squares + 2) / seen
    needed = -ndtri(level * (1 - BET)) * np.sqrt(square * num_items)
    spread = np.sqrt(np.maximum(left * (square - mean**2) * (1 + left / seen), 1e-12))
    return ndtr((total + left * mean - needed) / spread)


def look(differences_P: np.ndarray, num_items: int, level: float, futile: float = FUTILE) -> Look:
    """What the differences of the answered items, in the order of answering, decide about all `num_items`.

    ValueError when there are more differences than items, or one lies outside [-1, 1].
    """
    differences_P = np.asarray(differences_P, dtype=np.float64)
    answered = differences_P.size
    if answered > num_items:
        raise ValueError(f"look: {answered} differences of {num_items} items")
    if not (np.abs(differences_P) <= 1.0 + 1e-9).all():
        raise ValueError(f"look: differences lie in [-1, 1]; got {differences_P[np.argmax(np.abs(differences_P))]:g}")
    e_value = BET * math.exp(min(700.0, wealth_path(differences_P).max(initial=0.0)))
    p_value = min(1.0, 1.0 / e_value)
    if answered == num_items:
        p_value = min(p_value, sign_flip(differences_P) / (1 - BET))
    promote, chance = p_value <= level, 0.0
    if promote:
        outcome, chance = "promote", 1.0
    elif answered == num_items or not _can_promote(differences_P, num_items, level):
        outcome = "refuse"
    else:
        sums = float(differences_P.sum()), float((differences_P**2).sum())
        chance = float(chance_of_promotion(*sums, answered, num_items, level))
        outcome = "futile" if chance < futile else "undecided"
    return Look(outcome, answered, num_items, e_value, p_value, chance)


def last_look(difference_of: Mapping[str, float], num_items: int, seed: int, level: float) -> Look:
    """`look` at the differences of the answered items by id; `num_items`: of how many, 0 = of these."""
    in_order = [difference_of[example_id] for example_id in order_of(seed, list(difference_of))]
    return look(np.array(in_order), num_items or len(in_order), level)


def _can_promote(differences_P: np.ndarray, num_items: int, level: float) -> bool:
    """Whether it would be enough that every remaining item is won: wealth and the last test only rise with wins."""
    best_P = np.concatenate([differences_P, np.ones(num_items - differences_P.size)])
    bet = wealth_path(best_P)[-1] >= -math.log(BET * level) if best_P.size else False
    return bool(bet or sign_flip(best_P) <= (1 - BET) * level)
