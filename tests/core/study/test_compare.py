"""pytest tests/core/study/test_compare.py — differences of arms: closed forms, and intervals that hold what they promise."""

import math

import numpy as np
import pytest

from opsd_core.errors import DataError
from opsd_core.judgement.statistics import holm
from opsd_core.study.compare import compare, two_sided_p, variance_of_mean


def excludes_zero(found):
    return found.low > 0.0 or found.high < 0.0


def tail_by_quadrature(t, freedom):
    """P(|T| >= t): T = sqrt(v) tan(a) has a density ~ cos(a)^(v-1)."""
    end = math.atan(t / math.sqrt(freedom))
    angles = (np.arange(20_000) + 0.5) / 20_000 * end
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(math.pi)
    return 1.0 - 2.0 * end * float(np.mean(np.exp((freedom - 1) * np.log(np.cos(angles)) + scale)))


def test_p_values_are_students_t():
    for t, freedom, p in ((12.706, 1, 0.05), (4.303, 2, 0.05), (2.776, 4, 0.05), (3.169, 10, 0.01)):
        assert two_sided_p(t, 1.0, freedom) == pytest.approx(p, rel=1e-3)
    for freedom in (1.0, 2.5, 4.0, 17.3, 999.0):
        for t in (0.1, 1.0, 2.5, 6.0):
            assert two_sided_p(-3.0 * t, 9.0, freedom) == pytest.approx(tail_by_quadrature(t, freedom), abs=1e-8)
    assert two_sided_p(0.0, 1.0, 3.0) == two_sided_p(0.0, 0.0, 3.0) == two_sided_p(1.0, math.inf, 1.0) == 1.0
    assert two_sided_p(1.0, 0.0, 3.0) == 0.0


def test_variance_of_the_grand_mean_by_hand():
    # d = seed effect alone: every problem says the same, so only the seeds are data: sd^2 / S with S - 1 degrees
    only_seeds_SP = np.array([[1.0] * 50, [2.0] * 50, [4.0] * 50])
    variance, freedom = variance_of_mean(only_seeds_SP)
    assert variance == pytest.approx(np.var([1.0, 2.0, 4.0], ddof=1) / 3) and freedom == pytest.approx(2.0)
    # one seed: the mean over problems
    row_P = np.array([0.0, 1.0, 1.0, 0.0, -1.0])
    variance, freedom = variance_of_mean(row_P[None])
    assert variance == pytest.approx(row_P.var(ddof=1) / 5) and freedom == 4


def test_equal_arms_differ_by_nothing_and_shapes_must_agree():
    scores_SP = np.random.default_rng(0).integers(0, 2, (3, 40)).astype(float)
    same = compare(scores_SP, scores_SP)
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0) and not excludes_zero(same)
    with pytest.raises(DataError, match="shape"):
        compare(scores_SP, scores_SP[:, :39])


def test_seeds_that_disagree_are_no_proof_however_many_problems_there_are():
    """Each seed alone is far outside noise; over seeds the method may do anything."""
    differences_SP = np.array([[0.3] * 2000, [-0.2] * 2000, [0.1] * 2000])
    differences_SP += np.random.default_rng(0).choice([-0.1, 0.1], differences_SP.shape)
    found = compare(differences_SP, np.zeros_like(differences_SP))
    assert all(abs(seed.mean) > 0.05 and (seed.low > 0 or seed.high < 0) for seed in found.within_seeds)
    assert not excludes_zero(found) and found.p_value > 0.3


@pytest.mark.parametrize("num_seeds", [1, 2, 3, 5])
def test_intervals_cover_the_truth_as_often_as_they_say(num_seeds):
    """120 simulated studies of binary outcomes whose chance varies by seed and by problem; .95 nominal."""
    generator, trials, truth, covered, rejected = np.random.default_rng(num_seeds), 120, 0.1, 0, 0
    for trial in range(trials):
        by_seed_S1 = generator.normal(0, 0.0 if num_seeds == 1 else 0.05, (num_seeds, 1))
        easy_1P = generator.uniform(0.2, 0.7, (1, 80))
        reference_SP = generator.random((num_seeds, 80)) < easy_1P
        arm_SP = generator.random((num_seeds, 80)) < easy_1P + truth + by_seed_S1
        found = compare(arm_SP - truth, reference_SP, seed=trial, num_resamples=200)
        covered += not excludes_zero(found)
        rejected += found.p_value <= 0.05
    error = math.sqrt(0.05 * 0.95 / trials)
    assert covered / trials >= 0.95 - 3 * error, covered / trials
    assert rejected / trials <= 0.05 + 3 * error, rejected / trials


def test_holm_steps_down_and_stops():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}, 0.05) == {"a": True, "c": False, "b": False}
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}, 0.05) == {"a": True, "b": True, "c": True}
    assert holm({}, 0.05) == {}
