"""Two arms on the same problems: differences with intervals within a seed and across seeds.

S = seeds, P = problems, R = resamples

A score d_SP (arm minus reference) varies by seed, by problem and by both. With mean squares MS_S, MS_P, MS_SP of the
two-way layout, the mean over everything has the variance (Cornfield and Tukey 1956; Owen 2007, arXiv:0711.0990)

    Var = (MS_S + MS_P - MS_SP) / (S P)

which is what a bootstrap that resamples seeds *and* problems aims at. Resampling problems alone answers another
question: is this one trained model better? A study asks whether the method is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from opsd_core.errors import DataError
from opsd_core.judgement.statistics import PairedDifference, paired_bootstrap

_CHUNK = 500


@dataclass(frozen=True)
class Comparison:
    """Mean of (arm - reference) over seeds and problems."""

    mean: float
    low: float
    high: float
    """Bootstrap interval over seeds and problems; over problems alone when there is one seed."""
    p_value: float
    """Two-sided, from the closed-form variance and Student's t."""
    num_seeds: int
    num_problems: int
    within_seeds: tuple[PairedDifference, ...]
    """The same difference in each seed, with an interval over problems alone."""


def compare(
    arm_SP: np.ndarray,
    reference_SP: np.ndarray,
    *,
    seed: int = 0,
    num_resamples: int = 4000,
    confidence: float = 0.95,
) -> Comparison:
    """Difference of two arms, paired by seed and problem. DataError when the two are not of the same shape (S, P).

    Each resample draws S seeds and P problems with replacement and averages d_SP over the drawn grid. Seed and problem
    effects are first stretched by sqrt(n / (n - 1)), and seed effects by t / z of S - 1 degrees of freedom on top,
    because the plain bootstrap of three seeds is far too narrow.
    """
    arm_SP, reference_SP = np.atleast_2d(np.asarray(arm_SP, float)), np.atleast_2d(np.asarray(reference_SP, float))
    if arm_SP.shape != reference_SP.shape or arm_SP.size == 0:
        raise DataError(
            f"study: an arm has outcomes of shape {arm_SP.shape} (seeds, problems), its reference {reference_SP.shape}. "
            "Measure both on the same problems and seeds."
        )
    differences_SP = arm_SP - reference_SP
    num_seeds, num_problems = differences_SP.shape
    within = tuple(
        paired_bootstrap(row_P, seed=seed + index, num_resamples=num_resamples, confidence=confidence)
        for index, row_P in enumerate(differences_SP)
    )
    mean = float(differences_SP.mean())
    low, high = _interval(differences_SP, seed, num_resamples, confidence)
    if min(arm_SP.min(), reference_SP.min()) >= 0.0 and max(arm_SP.max(), reference_SP.max()) <= 1.0:
        low, high = max(low, -1.0), min(high, 1.0)  # shares differ by no more; stretched seeds could say so
    variance, freedom = variance_of_mean(differences_SP)
    p_value = two_sided_p(mean, variance, freedom)
    return Comparison(mean, low, high, p_value, num_seeds, num_problems, within)


def variance_of_mean(differences_SP: np.ndarray) -> tuple[float, float]:
    """(variance of the grand mean, Satterthwaite's degrees of freedom); one seed: sd^2 / P and P - 1."""
    num_seeds, num_problems = differences_SP.shape
    if num_seeds == 1 or num_problems == 1:
        values = differences_SP.ravel()
        return (float(values.var(ddof=1)) / values.size, values.size - 1.0) if values.size > 1 else (math.inf, 1.0)
    size = num_seeds * num_problems
    _, by_seed_S, by_problem_P, rest_SP = _effects(differences_SP)
    parts = (
        (num_problems * float(by_seed_S @ by_seed_S) / (num_seeds - 1), num_seeds - 1.0, 1.0),
        (num_seeds * float(by_problem_P @ by_problem_P) / (num_problems - 1), num_problems - 1.0, 1.0),
        (
            float((rest_SP**2).sum()) / ((num_seeds - 1) * (num_problems - 1)),
            (num_seeds - 1.0) * (num_problems - 1),
            -1.0,
        ),
    )
    variance = sum(sign * square for square, _, sign in parts) / size
    # a difference of mean squares can fall below either; the larger one alone is then the cautious choice
    variance = max(variance, parts[0][0] / size, parts[1][0] / size)
    spread = sum((square / size) ** 2 / freedom for square, freedom, _ in parts)
    return variance, (variance**2 / spread if spread > 0.0 else size - 1.0)


def two_sided_p(mean: float, variance: float, freedom: float) -> float:
    """P(|T| >= |mean| / sqrt(variance)) for Student's T; 1 for a difference that is 0 everywhere."""
    if variance <= 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2.0 * stdtr(freedom, -abs(mean) / math.sqrt(variance)))


def _effects(differences_SP: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Grand mean, seeds' effects (S,), problems' effects (P,) and what is left (S, P); they add up to the differences."""
    mean = differences_SP.mean()
    by_seed_S, by_problem_P = differences_SP.mean(1) - mean, differences_SP.mean(0) - mean
    return mean, by_seed_S, by_problem_P, differences_SP - mean - by_seed_S[:, None] - by_problem_P[None, :]


def _interval(differences_SP: np.ndarray, seed: int, num_resamples: int, confidence: float) -> tuple[float, float]:
    num_seeds, num_problems = differences_SP.shape
    generator = np.random.default_rng(seed)
    mean, by_seed_S, by_problem_P, rest_SP = _effects(differences_SP)
    tail = 1.0 - confidence
    if num_seeds > 1:
        stretch = stdtrit(num_seeds - 1, tail / 2.0) / ndtri(tail / 2.0)
        by_seed_S = by_seed_S * math.sqrt(num_seeds / (num_seeds - 1)) * stretch
    if num_problems > 1:
        by_problem_P = by_problem_P * math.sqrt(num_problems / (num_problems - 1))
    stretched_SP = mean + by_seed_S[:, None] + by_problem_P[None, :] + rest_SP
    means = []
    for start in range(0, num_resamples, _CHUNK):
        count = min(_CHUNK, num_resamples - start)
        drawn_RS = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=count) / num_seeds
        drawn_RP = (
            generator.multinomial(num_problems, np.full(num_problems, 1 / num_problems), size=count) / num_problems
        )
        means.append(((drawn_RS @ stretched_SP) * drawn_RP).sum(1))
    low, high = np.quantile(np.concatenate(means), [tail / 2.0, 1.0 - tail / 2.0])
    return round(float(low), 12) + 0.0, round(float(high), 12) + 0.0  # rounding of sums is not a difference


def stacked(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows (S, P) as an array. DataError when seeds have different numbers of problems."""
    if len({len(row) for row in rows}) != 1:
        raise DataError(f"study: seeds have different numbers of problems: {[len(row) for row in rows]}.")
    return np.asarray(rows, float)
