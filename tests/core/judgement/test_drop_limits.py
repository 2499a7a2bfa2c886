"""pytest tests/core/judgement/test_drop_limits.py — limits of a drop: published values, oracles, and how often they are wrong."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, norm, t

from opsd_core.judgement.skewed_mean import mean_limits
from opsd_core.judgement.tango import score, tango_limits


def test_the_published_example_of_tangos_interval():
    """Airway hyper-responsiveness (Bentur 2009): 1, 1, 7, 12 of 21 children; Fagerland, Lydersen, Laake 2014: (-.517, -.026)."""
    low, high = tango_limits(wins=7, losses=1, number=21, alpha=0.025)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(("wins", "losses", "number"), [(0, 0, 50), (3, 9, 80), (12, 30, 200), (0, 5, 40), (5, 0, 40)])
def test_tangos_limits_agree_with_a_numerical_maximum_of_the_likelihood(wins, losses, number):
    """The oracle maximises the restricted likelihood over q instead of using the closed form."""

    def numerical(drop):
        def negative(q):
            others = 1.0 - 2.0 * q - drop
            terms = ((losses, q + drop), (wins, q), (number - wins - losses, others))
            return -sum(count * math.log(max(chance, 1e-300)) for count, chance in terms if count)

        least, most = max(0.0, -drop), (1.0 - drop) / 2.0
        q = minimize_scalar(negative, bounds=(least, most), method="bounded", options={"xatol": 1e-12}).x
        return (losses - wins - number * drop) / math.sqrt(number * (2.0 * q + drop * (1.0 - drop)))

    low, high = tango_limits(wins, losses, number, 0.05)
    for limit, quantile in ((low, norm.isf(0.05)), (high, -norm.isf(0.05))):
        expected = brentq(lambda drop, value=quantile: numerical(drop) - value, limit - 0.02, limit + 0.02)
        assert limit == pytest.approx(expected, abs=1e-4)
    assert score(high, wins, losses, number) == pytest.approx(-norm.isf(0.05), abs=1e-9)


def chance_of_holding(number, drop, wins_chance, alpha=0.05):
    """Exact: the multinomial chance of all counts whose upper limit lies under the true drop."""
    total = 0.0
    for losses in range(number + 1):
        of_losses = binom.pmf(losses, number, wins_chance + drop)
        if of_losses < 1e-9:
            continue
        for wins in range(number - losses + 1):
            chance = of_losses * binom.pmf(wins, number - losses, wins_chance / (1.0 - wins_chance - drop))
            if chance > 1e-9 and score(drop, wins, losses, number) < -norm.isf(alpha):
                total += chance
    return total


@pytest.mark.parametrize("drop", [0.05, 0.1])
@pytest.mark.parametrize("number", [60, 120])
@pytest.mark.parametrize("wins_chance", [0.0, 0.02, 0.1])
def test_a_drop_of_exactly_the_limit_is_seldom_held(number, drop, wins_chance):
    assert chance_of_holding(number, drop, wins_chance) <= 0.065


def test_limits_of_counts_are_symmetric_ordered_and_narrow_with_the_number():
    low, high = tango_limits(4, 10, 100, 0.05)
    assert (low, high) == pytest.approx([-x for x in tango_limits(10, 4, 100, 0.05)[::-1]])
    assert low < 0.06 < high and tango_limits(40, 100, 1000, 0.05)[1] < high
    none = tango_limits(0, 0, 60, 0.05)
    assert none[1] == pytest.approx(norm.isf(0.05) ** 2 / (60 + norm.isf(0.05) ** 2))
    assert tango_limits(0, 60, 60, 0.05)[1] == pytest.approx(1.0) and tango_limits(60, 0, 60, 0.05)[0] == pytest.approx(-1.0)
    for wrong in ((0, 0, 0), (-1, 0, 5), (3, 3, 5)):
        with pytest.raises(ValueError, match="tango_limits"):
            tango_limits(*wrong, 0.05)


def test_limits_of_a_symmetric_mean_are_students():
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0]) / 10 + 0.05
    half = t.isf(0.05, 4) * values.std(ddof=1) / math.sqrt(5)
    assert mean_limits(values, 0.05) == pytest.approx((0.05 - half, 0.05 + half))
    assert mean_limits(np.full(30, 0.2), 0.05) == (pytest.approx(0.2), pytest.approx(0.2))
    with pytest.raises(ValueError, match="at least three"):
        mean_limits(np.array([0.1, 0.2]), 0.05)


def test_the_limits_of_a_skewed_mean_solve_halls_cubic():
    values = np.random.default_rng(3).exponential(size=40)
    mean, spread = values.mean(), values.std(ddof=1)
    skewness = (((values - mean) / spread) ** 3).sum() * 40 / (39 * 38)
    for limit, z in zip(mean_limits(values, 0.05), (1, -1), strict=True):
        y = (mean - limit) / spread
        cubic = y + skewness * y**2 / 3 + skewness**2 * y**3 / 27 + skewness / 240
        assert cubic == pytest.approx(z * t.isf(0.05, 39) / math.sqrt(40))


@pytest.mark.parametrize(("name", "most"), [("normal", 0.06), ("exponential", 0.075), ("lognormal", 0.085)])
def test_the_upper_limit_of_a_skewed_mean_lies_under_it_about_as_often_as_asked(name, most):
    """4,000 samples of 32 texts; Student's limit fails in .098 (exponential) and .109 (lognormal) of them."""
    generator = np.random.default_rng(1)
    draw, mean = {
        "normal": (lambda: generator.normal(size=32), 0.0),
        "exponential": (lambda: generator.exponential(size=32), 1.0),
        "lognormal": (lambda: np.exp(0.7 * generator.normal(size=32)), math.exp(0.245)),
    }[name]
    under = sum(mean_limits(draw(), 0.05)[1] < mean for _ in range(4000)) / 4000
    assert under <= most
