"""Metrics against brute force and hand-computed values."""

import itertools
import math
import random
from dataclasses import replace

import pytest

from opsd_core.data import make_example
from opsd_core.errors import DataError
from opsd_core.judgement.metrics import (
    answer_diversity,
    constant_accuracy,
    majority_credit,
    mean_entropy,
    pass_at_k,
    summarise,
)
from opsd_core.records.outcomes import ItemOutcome


def outcome(item="a", index=0, correct=True, extracted="1", mode="sampled", **changes) -> ItemOutcome:
    base = ItemOutcome(item, mode, index, correct, float(correct), extracted, 10, False, 2.0, 0.5, "text")
    return replace(base, **changes)


def test_pass_at_k_equals_the_share_of_subsets_with_a_correct_sample():
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
                expected = sum(any(subset) for subset in subsets) / len(subsets)
                assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_limits():
    assert pass_at_k(10, 0, 5) == 0.0
    assert pass_at_k(10, 6, 5) == 1.0  # only 4 wrong ones: 5 picks must hold a right one
    with pytest.raises(ValueError, match="1 <= k <= 4"):
        pass_at_k(4, 1, 8)


def test_majority_is_a_vote_of_answers_not_of_correctness():
    # "2" twice (wrong) beats "1" once (right) although one of three is right
    votes = [outcome(correct=False, extracted="2"), outcome(correct=False, extracted="2"), outcome()]
    assert majority_credit(votes) == 0.0
    # a tie between a right and a wrong answer: half the credit
    assert majority_credit([outcome(), outcome(correct=False, extracted="2")]) == 0.5
    # three without an answer do not outvote one with
    none = [outcome(correct=False, extracted=None)] * 3
    assert majority_credit([*none, outcome()]) == 1.0
    assert majority_credit(none) == 0.0


def test_majority_does_not_depend_on_the_order():
    votes = [outcome(correct=a == "1", extracted=a) for a in ["1", "2", "2", "1", "3", None]]
    shuffled = votes[:]
    for seed in range(20):
        random.Random(seed).shuffle(shuffled)
        assert majority_credit(shuffled) == majority_credit(votes) == 0.5


def test_summary_of_greedy_outcomes():
    outcomes = [
        outcome("a", mode="greedy", num_tokens=10, mean_entropy=1.0),
        outcome("b", mode="greedy", correct=False, extracted=None, num_tokens=30, mean_entropy=0.2, truncated=True),
        outcome("c", mode="greedy", correct=False, repetition=11.0, num_tokens=20, mean_entropy=0.5),
        outcome("d", mode="greedy", num_tokens=0, mean_entropy=math.nan),
    ]
    metrics = summarise(outcomes)
    assert metrics["eval/accuracy"] == 0.5
    # outcomes 1, 0, 0, 1: variance 1/3, standard error sqrt(1/3 / 4)
    assert metrics["eval/accuracy_se"] == pytest.approx(math.sqrt(1 / 12))
    assert metrics["eval/mean_length"] == 15.0
    assert metrics["eval/truncated_fraction"] == metrics["eval/repetition_fraction"] == 0.25
    assert metrics["eval/answered_fraction"] == 0.75
    assert metrics["eval/mean_entropy"] == pytest.approx((10 + 6 + 10) / 60)  # by tokens; the empty one weighs nothing
    assert metrics["eval/num_items"] == 4
    assert not any("@" in name for name in metrics)


def test_summary_of_sampled_outcomes_clusters_by_problem():
    # a: all 4 right, b: all 4 wrong. 8 outcomes, but only 2 independent problems.
    outcomes = [outcome("a", i) for i in range(4)] + [outcome("b", i, False, str(i)) for i in range(4)]
    metrics = summarise(outcomes)
    assert metrics["eval/avg@4"] == 0.5
    assert metrics["eval/avg@4_se"] == pytest.approx(0.5)  # sd of (1, 0) over sqrt(2), not sqrt(.25 / 8) = .18
    assert {name for name in metrics if name.startswith("eval/pass@") and not name.endswith("_se")} == {
        "eval/pass@1", "eval/pass@2", "eval/pass@4",
    }  # fmt: skip
    assert metrics["eval/pass@1"] == metrics["eval/avg@4"]
    assert metrics["eval/maj@4"] == 0.5
    assert metrics["eval/distinct_answers"] == (1 + 4) / 2
    assert "eval/accuracy" not in metrics and metrics["eval/sampled/mean_length"] == 10


def test_all_metrics_are_finite_numbers():
    metrics = summarise([outcome(mode="greedy"), outcome(index=0), outcome(index=1)])
    assert all(math.isfinite(value) for value in metrics.values())
    assert mean_entropy([outcome(num_tokens=0, mean_entropy=math.nan)]) == 0.0


def test_torn_evaluations_are_refused():
    with pytest.raises(DataError, match="no outcomes"):
        summarise([])
    with pytest.raises(DataError, match="sample_index twice"):
        summarise([outcome(), outcome()])
    with pytest.raises(DataError, match=r"different numbers of sampled completions: \[1, 2\]"):
        summarise([outcome("a", 0), outcome("b", 0), outcome("b", 1)])


def test_commonest_answer_and_diversity_show_a_gain_that_is_only_the_prior():
    """Answers 1 1 1 2: always saying 1 scores 3/4. Two different answers in four completions: 2/4."""
    examples = [make_example(f"q{i}", answer=answer) for i, answer in enumerate("1112")]
    assert constant_accuracy(examples) == 0.75
    said = [outcome(f"q{i}", extracted=answer, mode="greedy") for i, answer in enumerate("1121")]
    assert answer_diversity([*said, outcome("q9", extracted=None, mode="greedy")]) == 0.5
