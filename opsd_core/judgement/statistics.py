"""Paired tests and intervals for two models measured on the same items.

Power of the exact one-sided McNemar test (alpha = .05) for a true gain of 5 points, by the share of items that the
candidate newly gets wrong (the rest of the discordant items are gains):

    items    0 % newly wrong     2 %    5 %    10 %
    100                 .564    .371   .277    .203
    200                 .974    .720   .514    .359
    250                 .995    .816   .608    .428
    500                1.000    .983   .878    .696
    1000               1.000   1.000   .992    .929

So 200 items see a 5-point gain reliably only when hardly anything is unlearned; 1,000 items nearly always do.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_CHUNK_RESAMPLES = 500


@dataclass(frozen=True)
class McNemar:
    """Exact test of paired outcomes that only one side got right."""

    wins: int
    losses: int
    p_greater: float
    """P(at least this many wins | wins and losses equally likely): small when the candidate is better."""
    p_two_sided: float


def mcnemar(wins: int, losses: int) -> McNemar:
    """Exact McNemar test.

        p_greater = sum_{i >= wins} C(n, i) / 2^n,  n = wins + losses;  p_two_sided = min(1, 2 * smaller tail)

    Both are 1 when n = 0. Source: McNemar 1947; exact form: a sign test on the discordant pairs.
    """
    n = wins + losses
    p_greater = _upper_tail(n, wins)
    p_less = _upper_tail(n, losses)
    return McNemar(wins, losses, p_greater, min(1.0, 2.0 * min(p_greater, p_less)))


def mcnemar_power(num_items: int, gain: float, newly_wrong: float, alpha: float) -> float:
    """P(p_greater <= alpha) when each item is newly right with probability gain + newly_wrong, newly wrong otherwise.

    Exact: sum over the number of discordant items and of wins among them.
    """
    discordant = gain + 2.0 * newly_wrong
    if discordant <= 0.0:
        return 0.0
    win_share = (gain + newly_wrong) / discordant
    total = 0.0
    for n in range(num_items + 1):
        weight = _binomial(num_items, n, discordant)
        if weight < 1e-12:
            continue
        total += weight * sum(_binomial(n, w, win_share) for w in range(_fewest_wins(n, alpha), n + 1))
    return total


@dataclass(frozen=True)
class PairedDifference:
    """Mean over problems of (candidate - champion), its interval and its one-sided p-value."""

    mean: float
    low: float
    high: float
    p_greater: float
    """P(a mean at least this large | the two sides are exchangeable problem by problem)."""


def paired_bootstrap(
    differences_P: np.ndarray, *, seed: int = 0, num_resamples: int = 10_000, confidence: float = 0.95
) -> PairedDifference:
    """Percentile interval over resampled problems, and a p-value from random signs.

    differences_P holds one number per problem (P problems): candidate's mean score minus the champion's. The interval
    resamples problems with replacement. The p-value flips each difference's sign with probability 1/2:

        p = (1 + #{flipped mean >= mean}) / (num_resamples + 1)

    which keeps its level at any number of problems; the share of bootstrap means <= 0 does not (four wins and no loss
    give .018 there, and 1/16 here and in McNemar's test). Raises ValueError when there is no problem.
    """
    differences_P = np.asarray(differences_P, dtype=np.float64)
    if differences_P.ndim != 1 or differences_P.size == 0:
        raise ValueError(f"paired_bootstrap needs one difference per problem; got shape {differences_P.shape}")
    generator = np.random.default_rng(seed)
    mean, num_problems = float(differences_P.mean()), differences_P.size
    values_U, counts_U = np.unique(differences_P, return_counts=True)
    sizes_M, size_counts_M = np.unique(np.abs(differences_P), return_counts=True)
    means, as_large = [], 0
    for start in range(0, num_resamples, _CHUNK_RESAMPLES):
        count = min(_CHUNK_RESAMPLES, num_resamples - start)
        # how often each of the U distinct values is drawn in num_problems draws with replacement
        drawn_RU = generator.multinomial(num_problems, counts_U / num_problems, size=count)
        means.append(drawn_RU @ values_U / num_problems)
        # how many of the differences of each of the M distinct sizes keep a plus sign
        plus_RM = generator.binomial(size_counts_M, 0.5, size=(count, sizes_M.size))
        flipped_R = (2 * plus_RM - size_counts_M) @ sizes_M / num_problems
        as_large += int((flipped_R >= mean - 1e-12).sum())
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
    return PairedDifference(mean, float(low), float(high), (1 + as_large) / (num_resamples + 1))


def wilson_interval(successes: int, num_items: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share; stays inside [0, 1] and is not empty at 0 or all successes.

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)      Source: Wilson 1927.
    """
    if num_items == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    share = successes / num_items
    centre = share + z * z / (2 * num_items)
    half = z * math.sqrt(share * (1 - share) / num_items + z * z / (4 * num_items * num_items))
    scale = 1.0 + z * z / num_items
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == num_items else (centre + half) / scale
    return low, high


def clustered_standard_error(means_P: np.ndarray) -> float | None:
    """Standard error of a mean over P problems, sd / sqrt(P), from one mean per problem; None for fewer than 2."""
    means_P = np.asarray(means_P, dtype=np.float64)
    return float(means_P.std(ddof=1) / math.sqrt(means_P.size)) if means_P.size >= 2 else None


def _upper_tail(n: int, k: int) -> float:
    """P(X >= k) for X ~ Binomial(n, 1/2), in exact integers."""
    term = total = math.comb(n, k)
    for i in range(k, n):
        term = term * (n - i) // (i + 1)
        total += term
    return total / (1 << n)


def _fewest_wins(n: int, alpha: float) -> int:
    """The fewest wins among n discordant items with p_greater <= alpha; n + 1 when none are enough."""
    tail, wins = 0, n + 1
    while wins > 0 and (tail + math.comb(n, wins - 1)) / (1 << n) <= alpha:
        wins -= 1
        tail += math.comb(n, wins)
    return wins


def _binomial(n: int, k: int, p: float) -> float:
    if p in (0.0, 1.0):
        return float(k == n * p)
    log_choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))
