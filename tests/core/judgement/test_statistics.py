"""pytest tests/core/judgement/test_statistics.py — against exact integers, brute force, simulation and scipy's own resampling."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from opsd_core.judgement import statistics
from opsd_core.judgement.statistics import clustered_standard_error, mcnemar, mcnemar_power, paired_bootstrap


def exact_p(wins, losses):
    """P(X >= wins) for X ~ Binomial(wins + losses, 1/2), in integers."""
    n = wins + losses
    term = total = math.comb(n, wins)
    for i in range(wins, n):
        term = term * (n - i) // (i + 1)
        total += term
    return total / (1 << n)


def exact_power(num_items, gain, newly_wrong, alpha):
    """The same power, summed over every number of wins and losses."""
    total, lost, won = 0.0, newly_wrong, gain + newly_wrong
    for wins in range(num_items + 1):
        for losses in range(num_items + 1 - wins):
            if wins + losses and exact_p(wins, losses) <= alpha:
                ways = math.comb(num_items, wins) * math.comb(num_items - wins, losses)
                total += ways * won**wins * lost**losses * (1 - won - lost) ** (num_items - wins - losses)
    return total


def test_mcnemar_by_hand():
    # 4 wins, 0 losses: P(X >= 4 | 4) = 1/16.  5 wins, 1 loss: (6 + 1) / 64.
    assert mcnemar(4, 0) == pytest.approx(1 / 16, rel=1e-12) and mcnemar(5, 1) == pytest.approx(7 / 64, rel=1e-12)
    assert mcnemar(0, 4) == mcnemar(0, 0) == 1.0


@pytest.mark.parametrize("n", [*range(60), 100, 250, 1000, 5000])
def test_mcnemar_equals_exact_integers_and_decides_the_same(n):
    """At every level that a campaign of up to twenty iterations tests at, those that a p-value can equal included."""
    for wins in range(0, n + 1, max(1, n // 50)):
        found, exact = mcnemar(wins, n - wins), exact_p(wins, n - wins)
        assert found == pytest.approx(exact, rel=1e-10, abs=1e-300)
        for alpha in (0.05, 0.01, 0.1, 1 / 4, 1 / 16, 1 / 32):
            for iterations in range(1, 21):
                level = alpha / iterations + 1e-12  # as the gate compares
                assert (found <= level) == (exact <= level), (wins, n, alpha, iterations)


@pytest.mark.parametrize("rates", [(0.05, 0.0), (0.05, 0.05), (0.0, 0.1), (0.6, 0.2), (1.0, 0.0)])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 6, 1 / 16])
def test_power_equals_the_sum_over_all_outcomes(rates, alpha):
    for num_items in (0, 1, 4, 25):
        assert mcnemar_power(num_items, *rates, alpha) == pytest.approx(exact_power(num_items, *rates, alpha), abs=1e-12)


def test_power_of_impossible_rates_is_refused():
    with pytest.raises(ValueError, match=r"gain 0.9 \+ 2 \* newly_wrong 0.1 = 1.1"):
        mcnemar_power(10, 0.9, 0.1, 0.05)


@pytest.mark.parametrize("n", range(1, 11))
def test_mcnemar_equals_the_enumeration_of_all_sign_patterns(n):
    totals = [sum(pattern) for pattern in itertools.product((0, 1), repeat=n)]
    for wins in range(n + 1):
        expected = sum(total >= wins for total in totals) / len(totals)
        assert mcnemar(wins, n - wins) == pytest.approx(expected, abs=1e-15)


def test_mcnemar_at_thousands_of_items():
    # normal approximation with continuity correction: z = (|5200 - 4800| - 1) / 100 = 3.99
    exact, z = mcnemar(5200, 4800), 3.99
    assert exact == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), rel=0.02)


def test_power_by_hand_and_by_simulation():
    # 5 items that all turn right with probability .5, none wrong: significant only with 5 wins (1/32 <= .05): .5^5
    assert mcnemar_power(5, 0.5, 0.0, 0.05) == pytest.approx(0.5**5)
    assert mcnemar_power(100, 0.0, 0.0, 0.05) == 0.0
    generator = np.random.default_rng(0)
    counts = generator.multinomial(200, [0.10, 0.05, 0.85], size=2000)
    simulated = np.mean([mcnemar(int(wins), int(losses)) <= 0.05 for wins, losses, _ in counts])
    assert mcnemar_power(200, 0.05, 0.05, 0.05) == pytest.approx(simulated, abs=3.5 * math.sqrt(0.25 / 2000))


def test_the_power_table_of_the_docstring_is_computed():
    lines = [line.split() for line in statistics.__doc__.splitlines() if line.strip()[:1].isdigit()]
    assert [int(line[0]) for line in lines] == [100, 200, 250, 500, 1000]
    for size, *stated in lines:
        for newly_wrong, value in zip((0.0, 0.02, 0.05, 0.10), stated, strict=True):
            assert mcnemar_power(int(size), 0.05, newly_wrong, 0.05) == pytest.approx(float(value), abs=6e-4)


def test_bootstrap_interval_has_the_standard_error_of_the_mean():
    generator = np.random.default_rng(1)
    differences = generator.normal(0.1, 1.0, 400)
    result = paired_bootstrap(differences, seed=2)
    half = 1.96 * clustered_standard_error(differences)
    assert result.mean == pytest.approx(differences.mean())
    assert result.high - result.mean == pytest.approx(half, rel=0.08)
    assert result.mean - result.low == pytest.approx(half, rel=0.08)
    assert paired_bootstrap(differences, seed=2) == result != paired_bootstrap(differences, seed=3)


def test_bootstrap_p_value_equals_all_sign_flips():
    differences = np.array([0.5, 0.25, -0.25, 0.75, 0.0, 0.25, 0.5])
    flips = [np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=7)]
    exact = np.mean([flip >= differences.sum() - 1e-12 for flip in flips])
    assert paired_bootstrap(differences).p_greater == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000))
    # four wins, no loss: as in McNemar's test 1/16, never "significant"
    assert paired_bootstrap(np.array([1.0] * 4 + [0.0] * 96)).p_greater == pytest.approx(1 / 16, abs=0.01)


def test_bootstrap_agrees_with_scipys_slower_resampling():
    generator = np.random.default_rng(3)
    differences = generator.choice([-1.0, -0.25, 0.0, 0.5], p=[0.05, 0.1, 0.6, 0.25], size=150)
    found = paired_bootstrap(differences, seed=1)
    interval = stats.bootstrap((differences,), np.mean, method="percentile", rng=4).confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.005)
    few = generator.choice([-1.0, 0.0, 0.5], size=60)
    signs = stats.permutation_test(
        (few, np.zeros_like(few)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        rng=5,
    )
    error = math.sqrt(2 * signs.pvalue * (1 - signs.pvalue) / 10_000)
    assert paired_bootstrap(few).p_greater == pytest.approx(signs.pvalue, abs=4 * error)


def test_bootstrap_keeps_its_level_on_few_discordant_items():
    generator = np.random.default_rng(5)
    significant = 0
    for seed in range(600):
        differences = generator.choice([-1.0, 0.0, 1.0], p=[0.02, 0.96, 0.02], size=100)
        significant += paired_bootstrap(differences, seed=seed, num_resamples=500).p_greater <= 0.05
    assert significant / 600 <= 0.05


def test_bootstrap_needs_problems():
    with pytest.raises(ValueError, match="one difference per problem"):
        paired_bootstrap(np.array([]))


def test_standard_error_of_problem_means():
    assert clustered_standard_error([0.0, 1.0]) == pytest.approx(0.5)  # sd = .7071, / sqrt(2)
    assert clustered_standard_error([1.0]) is None
