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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import bdtrc, betaln, xlog1py, xlogy

_CHUNK_RESAMPLES = 500


def mcnemar(wins: int, losses: int) -> float:
    """Exact one-sided McNemar test of paired outcomes that only one side got right: small when the candidate is better.

        p = P(X >= wins),  X ~ Binomial(wins + losses, 1/2)

    1 when both are 0. Source: McNemar 1947; exact form: a sign test on the discordant pairs.
    """
    return float(bdtrc(wins - 1, wins + losses, 0.5))


def mcnemar_power(num_items: int, gain: float, newly_wrong: float, alpha: float) -> float:
    """P(p <= alpha) when each item is newly right with probability gain + newly_wrong, newly wrong otherwise.

    Exact: sum over the number of discordant items and of wins among them. Raises ValueError when the two rates add up to
    more than 1.
    """
    discordant = gain + 2.0 * newly_wrong
    if discordant <= 0.0:
        return 0.0
    if discordant > 1.0 + 1e-9:
        raise ValueError(f"mcnemar_power: gain {gain:g} + 2 * newly_wrong {newly_wrong:g} = {discordant:g} is above 1")
    discordant, discordant_n = min(discordant, 1.0), np.arange(num_items + 1)
    enough_n = _fewest_wins(num_items, alpha)
    reached_n = np.where(enough_n > discordant_n, 0.0, bdtrc(enough_n - 1.0, discordant_n, (gain + newly_wrong) / discordant))
    log_pmf_n = -betaln(discordant_n + 1, num_items - discordant_n + 1) - math.log(num_items + 1)
    log_pmf_n += xlogy(discordant_n, discordant) + xlog1py(num_items - discordant_n, -discordant)
    return float(np.exp(log_pmf_n) @ reached_n)


@lru_cache(maxsize=16)
def _fewest_wins(num_items: int, alpha: float) -> np.ndarray:
    """Of 0 to num_items discordant items, how many wins reach alpha; one more than all when none do. It rises by 0 or 1."""
    wins = [1]
    for discordant in range(1, num_items + 1):
        enough = wins[-1] <= discordant and bdtrc(wins[-1] - 1, discordant, 0.5) <= alpha
        wins.append(wins[-1] if enough else wins[-1] + 1)
    return np.array(wins)


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
    give .018 there, and 1/16 here and in McNemar's test). Both draw how often each distinct value occurs instead of
    every problem, which scipy.stats.bootstrap and permutation_test cannot: same distribution, a hundred times faster.
    Raises ValueError when there is no problem.
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


def clustered_standard_error(means_P: np.ndarray) -> float | None:
    """Standard error of a mean over P problems, sd / sqrt(P), from one mean per problem; None for fewer than 2."""
    means_P = np.asarray(means_P, dtype=np.float64)
    return float(means_P.std(ddof=1) / math.sqrt(means_P.size)) if means_P.size >= 2 else None


def holm(p_values: Mapping[str, float], alpha: float) -> dict[str, bool]:
    """Which hypotheses Holm's step-down procedure rejects at family-wise level `alpha` (Holm 1979).

    Sorted by p-value, the i-th smallest of m (from 0) is rejected while p <= alpha / (m - i).
    """
    rejected, going = {}, True
    for index, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        going = going and p_value <= alpha / (len(p_values) - index)
        rejected[name] = going
    return rejected


_Z95 = 1.959963984540054


def wilson(right: float, number: int) -> tuple[float, float]:
    """95 % interval of a share, inside [0, 1] (Wilson 1927): `right` of `number`; (0, 1) where nothing was measured."""
    if number == 0:
        return 0.0, 1.0
    share, z2 = right / number, _Z95 * _Z95
    centre = (share + z2 / (2 * number)) / (1 + z2 / number)
    half = _Z95 / (1 + z2 / number) * math.sqrt(share * (1 - share) / number + z2 / (4 * number * number))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def paired_interval(wins: int, losses: int, both: int, number: int) -> tuple[float, float, float]:
    """(difference, low, high) of two shares of the same items, inside [-1, 1] (Newcombe 1998, Stat. Med. 17, method 10).

    wins, losses: right on one side only, after and before; both: right on both; number: all items. (0, -1, 1) without items.
    """
    if number == 0:
        return 0.0, -1.0, 1.0
    neither = number - wins - losses - both
    after, before = both + wins, both + losses
    margins = math.sqrt(float(after) * (number - after) * before * (number - before))
    overlap = both * neither - wins * losses
    overlap = max(0.0, overlap - number / 2) if overlap > 0 else overlap
    phi = overlap / margins if margins else 0.0
    (low_a, high_a), (low_b, high_b) = wilson(after, number), wilson(before, number)
    down_a, up_a = after / number - low_a, high_a - after / number
    down_b, up_b = before / number - low_b, high_b - before / number
    mean = (wins - losses) / number
    below = math.sqrt(max(0.0, down_a**2 - 2 * phi * down_a * up_b + up_b**2))
    above = math.sqrt(max(0.0, up_a**2 - 2 * phi * up_a * down_b + down_b**2))
    return mean, max(-1.0, mean - below), min(1.0, mean + above)
