"""pytest tests/core/judgement/test_sequential.py — bets against exact integrals, error rate under optional stopping, verdicts."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from opsd_core.judgement.power import Design, sequential_operating, smallest_gain
from opsd_core.judgement.sequential import BET, log_wealth, look, order_of, sign_flip, wealth_path
from opsd_core.judgement.statistics import mcnemar, mcnemar_power


def exact_wealth(wins: int, losses: int) -> Fraction:
    """int_0^1 (1 + x)^wins (1 - x)^losses dx by expanding the polynomial in whole numbers."""
    coefficients = [1]
    for sign in [1] * wins + [-1] * losses:
        coefficients = [a + sign * b for a, b in zip([*coefficients, 0], [0, *coefficients], strict=True)]
    return sum((Fraction(c, power + 1) for power, c in enumerate(coefficients)), Fraction(0))


@pytest.mark.parametrize("wins, losses", [(0, 0), (1, 0), (0, 1), (5, 0), (0, 30), (17, 3), (40, 40), (3, 90), (150, 20)])
def test_wealth_is_the_integral_over_all_stakes(wins, losses):
    assert float(log_wealth(wins, losses)) == pytest.approx(math.log(exact_wealth(wins, losses)), abs=1e-9)


def test_wealth_of_many_items_neither_overflows_nor_is_no_number():
    assert log_wealth(20_000, 0) == pytest.approx(20_001 * math.log(2) - math.log(20_001), rel=1e-9)
    assert log_wealth(0, 20_000) == -np.inf
    assert look(np.ones(5000), 10_000, 1e-9).outcome == "promote"
    assert look(-np.ones(5000), 10_000, 0.05).outcome in ("refuse", "futile")


def test_wealth_after_an_item_is_on_average_what_it_was_before():
    """The martingale, exactly, where both are equally likely to win; less where the candidate is worse."""
    for wins, losses in product(range(12), range(12)):
        now, won, lost = (exact_wealth(wins + a, losses + b) for a, b in ((0, 0), (1, 0), (0, 1)))
        assert (won + lost) / 2 == now and Fraction(2, 5) * won + Fraction(3, 5) * lost < now


def test_stakes_on_fractions_give_single_answers_the_same_wealth():
    differences = np.array([1, 0, 0, -1, 1, 1, 0, 1, -1, 1] * 20, dtype=float)
    with_one_fraction = np.append(differences, 1e-12)  # no single answer: the finite mixture is used for all items
    assert wealth_path(with_one_fraction)[:-1] == pytest.approx(wealth_path(differences), abs=1e-9)


def test_the_exact_sign_test_of_fractions_counts_every_choice_of_signs():
    for differences in ([0.5, -0.25, 1.0, 0.75], [1 / 3, 2 / 3, -1 / 3, 0, 1], [0.25] * 8, [0.0, 0.0], [-0.5, -1.0]):
        sizes, total = np.abs(differences), sum(differences)
        at_least = [np.dot(signs, sizes) >= total - 1e-9 for signs in product((-1, 1), repeat=len(differences))]
        assert sign_flip(np.array(differences)) == pytest.approx(np.mean(at_least), abs=1e-12)
    assert sign_flip(np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 50)) == mcnemar(9, 2)
    halves = np.array([0.5] * 9 + [-0.5] * 2)
    assert sign_flip(halves) == pytest.approx(mcnemar(9, 2), abs=1e-12)
    with pytest.raises(ValueError, match="no means of up to"):
        sign_flip(np.array([0.1234567, 0.5]))


def test_a_look_says_what_is_certain():
    wins = np.ones(60)
    assert look(wins, 250, 0.05).outcome == "promote" and look(wins, 250, 0.05).num_answered == 60
    nothing = np.zeros(60)
    assert look(nothing, 62, 0.05).outcome == "refuse"  # two items more, even won, are not enough
    assert look(nothing, 250, 0.05).outcome in ("futile", "undecided")
    assert look(np.zeros(0), 250, 0.05).outcome == "undecided"
    at_end = look(np.array([-1.0] * 3 + [1.0] * 12 + [0.0] * 35), 50, 0.05)
    assert at_end.outcome == "promote" and at_end.p_value == pytest.approx(mcnemar(12, 3) / (1 - BET))
    for wrong, message in (([2.0], "lie in"), ([math.nan], "lie in"), ([0.0] * 5, "5 differences of 4")):
        with pytest.raises(ValueError, match=message):
            look(np.array(wrong), 4, 0.05)


def test_refused_means_that_no_answers_to_the_rest_could_promote():
    """Every continuation of short evaluations, one by one."""
    for first in product((-1.0, 0.0, 1.0), repeat=4):
        found = look(np.array(first), 8, 0.2, futile=0.0)
        if found.outcome == "undecided" or found.outcome == "promote":
            continue
        ends = (look(np.array(first + rest), 8, 0.2).outcome for rest in product((-1.0, 0.0, 1.0), repeat=4))
        assert "promote" not in set(ends), first


def null_run(generator, num_items, churn, samples):
    """Differences of a candidate that is exactly as good as the champion."""
    if samples == 1:
        return generator.choice([1.0, -1.0, 0.0], num_items, p=[churn / 2, churn / 2, 1 - churn])
    rights = generator.random((2, num_items, samples)) < generator.random((1, num_items, 1))
    return (rights[0].mean(1) - rights[1].mean(1)).round(12)


_SLOW = pytest.mark.slow
_RATES = [(0.05, 0.2), pytest.param(0.05, 0.02, marks=_SLOW), pytest.param(0.05 / 6, 0.1, marks=_SLOW)]


@pytest.mark.parametrize("level, churn", _RATES)
def test_of_10_000_equal_candidates_no_more_than_the_level_are_promoted_whenever_one_looks(level, churn):
    """A look after every item, and nobody gives up: the rule that promotes most."""
    runs = 10_000
    found = sequential_operating(Design(150, level, 1, futile=0.0), 0.0, churn / 2, runs=runs, seed=1)
    assert found.power <= level + 3 * math.sqrt(level * (1 - level) / runs)
    assert found.power > level / 20, "a test that never promotes would pass"


def test_stopping_at_the_bound_of_a_fixed_test_is_seen_to_promote_equal_candidates():
    """What the simulation has to be able to catch: looking at McNemar's p after every item."""
    generator, promoted = np.random.default_rng(0), 0
    for _ in range(300):
        d = null_run(generator, 150, 0.3, 1)
        wins, losses = np.cumsum(d > 0), np.cumsum(d < 0)
        promoted += any(mcnemar(int(w), int(n)) <= 0.05 for w, n in zip(wins, losses, strict=True))
    assert promoted > 0.1 * 300


def test_fractions_keep_the_level_too():
    generator, runs, level = np.random.default_rng(3), 400, 0.2
    promoted = 0
    for _ in range(runs):
        d = null_run(generator, 60, 0.0, 3)
        path = wealth_path(d)
        early = BET * math.exp(path.max()) >= 1 / level
        promoted += early or sign_flip(d) <= (1 - BET) * level
    assert promoted / runs <= level + 3 * math.sqrt(level * (1 - level) / runs)
    assert promoted / runs > level / 4


@pytest.mark.parametrize("num_items, gain, churn", [(150, 0.10, 0.1), (250, 0.08, 0.1), (250, 0.16, 0.2)])
def test_fixed_and_sequential_verdicts_agree_in_expectation(num_items, gain, churn):
    """The same candidates judged by both: the sequential test promotes nearly as many, and answers fewer items."""
    generator, level, runs, block = np.random.default_rng(num_items), 0.05, 300, 25
    both = only_fixed = only_sequential = answered = 0
    for _ in range(runs):
        p = [gain + churn / 2, churn / 2, 1 - gain - churn]
        d = generator.choice([1.0, -1.0, 0.0], num_items, p=p)
        fixed = mcnemar(int((d > 0).sum()), int((d < 0).sum())) <= level
        for end in range(block, num_items + block, block):
            found = look(d[:end], num_items, level)
            if found.outcome != "undecided":
                break
        sequential = found.outcome == "promote"
        answered += found.num_answered
        both, only_fixed = both + (fixed and sequential), only_fixed + (fixed and not sequential)
        only_sequential += sequential and not fixed
    expected = sequential_operating(Design(num_items, level, block, step=5), gain, churn / 2, runs=2000)
    noise = 3 * math.sqrt(0.25 / runs)
    assert (both + only_sequential) / runs == pytest.approx(expected.power, abs=noise)
    assert (both + only_fixed) / runs == pytest.approx(mcnemar_power(num_items, gain, churn / 2, level), abs=noise)
    assert answered / runs == pytest.approx(expected.mean_items, rel=0.1) and answered < num_items * runs
    assert (only_fixed + only_sequential) / runs < 0.08 and only_fixed >= only_sequential


def exact_operating(num_items, gain, newly_wrong, level, block):
    """Power and items by carrying the probability of every pair of counts from item to item."""
    right, wrong = gain + newly_wrong, newly_wrong
    mass, power, items = {(0, 0): 1.0}, 0.0, 0.0
    for answered in range(1, num_items + 1):
        following: dict[tuple[int, int], float] = {}
        for (w, n), p in mass.items():
            for key, q in (((w + 1, n), right), ((w, n + 1), wrong), ((w, n), 1 - right - wrong)):
                following[key] = following.get(key, 0.0) + p * q
        mass = following
        if answered % block and answered < num_items:
            continue
        for (w, n), p in list(mass.items()):
            worst_first = np.array([-1.0] * n + [1.0] * w + [0.0] * (answered - w - n))  # its wealth is highest at the end
            outcome = look(worst_first, num_items, level).outcome
            if outcome != "undecided":
                power += p * (outcome == "promote")
                items += p * answered
                del mass[w, n]
    return power, items


def test_the_operating_characteristic_is_that_of_the_looks():
    """Against an exact enumeration: wealth after blocks alone, in which earlier peaks play no part while nothing is promoted."""
    for gain in (0.0, 0.25):
        power, items = exact_operating(24, gain, 0.1, 0.1, 8)
        found = sequential_operating(Design(24, 0.1, 8), gain, 0.1, runs=20_000)
        assert found.power == pytest.approx(power, abs=4 * math.sqrt(0.25 / 20_000))
        assert found.mean_items == pytest.approx(items, abs=0.3)


def test_the_smallest_gain_is_where_power_reaches_what_is_wanted():
    gain = smallest_gain(lambda g: mcnemar_power(250, g, 0.05, 0.05), 0.05)
    assert mcnemar_power(250, gain, 0.05, 0.05) >= 0.8 > mcnemar_power(250, gain - 0.001, 0.05, 0.05)
    assert smallest_gain(lambda g: mcnemar_power(4, g, 0.05, 0.001), 0.05) is None
    with pytest.raises(ValueError, match="above 1"):
        sequential_operating(Design(100, 0.05, 10), 0.9, 0.1)


def test_the_order_of_answering_is_drawn_and_not_that_of_the_ids():
    ids = [f"{number:04d}" for number in range(200)]
    order = order_of(0, ids)
    assert sorted(order) == ids and order != ids and order == order_of(0, ids[::-1]) != order_of(1, ids)
    assert abs(np.corrcoef([ids.index(i) for i in order], range(200))[0, 1]) < 0.3
