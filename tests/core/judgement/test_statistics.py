"""Statistics against closed forms, brute force and simulation."""

import itertools
import math

import numpy as np
import pytest

from opsd_core.judgement import statistics
from opsd_core.judgement.statistics import (
    clustered_standard_error,
    mcnemar,
    mcnemar_power,
    paired_bootstrap,
    wilson_interval,
)


def test_mcnemar_by_hand():
    # 4 wins, 0 losses: P(X >= 4 | 4) = 1/16.  5 wins, 1 loss: (6 + 1) / 64.
    assert mcnemar(4, 0).p_greater == 1 / 16 and mcnemar(4, 0).p_two_sided == 1 / 8
    assert mcnemar(5, 1).p_greater == 7 / 64
    assert mcnemar(0, 4).p_greater == 1.0 and mcnemar(0, 4).p_two_sided == 1 / 8
    assert mcnemar(0, 0) == statistics.McNemar(0, 0, 1.0, 1.0)
    assert mcnemar(3, 3).p_two_sided == 1.0


@pytest.mark.parametrize("n", range(1, 11))
def test_mcnemar_equals_the_enumeration_of_all_sign_patterns(n):
    totals = [sum(pattern) for pattern in itertools.product((0, 1), repeat=n)]
    for wins in range(n + 1):
        expected = sum(total >= wins for total in totals) / len(totals)
        assert mcnemar(wins, n - wins).p_greater == pytest.approx(expected, abs=1e-15)


def test_mcnemar_at_thousands_of_items():
    # normal approximation with continuity correction: z = (|5200 - 4800| - 1) / 100 = 3.99
    exact, z = mcnemar(5200, 4800).p_greater, 3.99
    assert exact == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), rel=0.02)


def test_power_by_hand_and_by_simulation():
    # 5 items that all turn right with probability .5, none wrong: significant only with 5 wins (1/32 <= .05): .5^5
    assert mcnemar_power(5, 0.5, 0.0, 0.05) == pytest.approx(0.5**5)
    assert mcnemar_power(100, 0.0, 0.0, 0.05) == 0.0
    generator = np.random.default_rng(0)
    counts = generator.multinomial(200, [0.10, 0.05, 0.85], size=2000)
    simulated = np.mean([mcnemar(int(wins), int(losses)).p_greater <= 0.05 for wins, losses, _ in counts])
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


def test_wilson_interval_against_its_quadratic():
    # the ends solve (p - share)^2 = z^2 p (1 - p) / n
    for successes, n in [(0, 10), (3, 10), (10, 10), (41, 200)]:
        for end in wilson_interval(successes, n):
            if 0.0 < end < 1.0:
                assert (end - successes / n) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / n, rel=1e-5)
    assert wilson_interval(0, 10)[0] == 0.0 and wilson_interval(10, 10)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_covers():
    generator = np.random.default_rng(7)
    draws = generator.binomial(50, 0.1, 2000)
    covered = np.mean([low <= 0.1 <= high for low, high in (wilson_interval(int(d), 50) for d in draws)])
    assert 0.93 <= covered <= 0.985


def test_standard_error_of_problem_means():
    assert clustered_standard_error([0.0, 1.0]) == pytest.approx(0.5)  # sd = .7071, / sqrt(2)
    assert clustered_standard_error([1.0]) is None
