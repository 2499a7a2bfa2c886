"""pytest tests/core/study/test_compare.py — differences of arms: closed forms, and intervals that hold what they promise."""

import math

import numpy as np
import pytest

from opsd_core.errors import DataError
from opsd_core.study.compare import compare, holm, student_quantile, student_tail, variance_of_mean


def test_students_t_against_tables():
    for tail, freedom, value in ((0.05, 1, 12.706), (0.05, 2, 4.303), (0.05, 4, 2.776), (0.01, 10, 3.169)):
        assert student_quantile(tail, freedom) == pytest.approx(value, abs=2e-3)
    assert student_tail(1.959964, 1e6) == pytest.approx(0.05, abs=1e-4)
    assert student_tail(0.0, 3) == 1.0


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
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0) and not same.excludes_zero
    with pytest.raises(DataError, match="shape"):
        compare(scores_SP, scores_SP[:, :39])


def test_seeds_that_disagree_are_no_proof_however_many_problems_there_are():
    """Each seed alone is far outside noise; over seeds the method may do anything."""
    differences_SP = np.array([[0.3] * 2000, [-0.2] * 2000, [0.1] * 2000])
    differences_SP += np.random.default_rng(0).choice([-0.1, 0.1], differences_SP.shape)
    found = compare(differences_SP, np.zeros_like(differences_SP))
    assert all(abs(seed.mean) > 0.05 and (seed.low > 0 or seed.high < 0) for seed in found.within_seeds)
    assert not found.excludes_zero and found.p_value > 0.3


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
        covered += not found.excludes_zero
        rejected += found.p_value <= 0.05
    error = math.sqrt(0.05 * 0.95 / trials)
    assert covered / trials >= 0.95 - 3 * error, covered / trials
    assert rejected / trials <= 0.05 + 3 * error, rejected / trials


def test_holm_steps_down_and_stops():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}, 0.05) == {"a": True, "c": False, "b": False}
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}, 0.05) == {"a": True, "b": True, "c": True}
    assert holm({}, 0.05) == {}
