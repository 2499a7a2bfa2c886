"""Sample gates: order, reasons, and that nothing gets lost."""

import random
import string

import pytest

from opsd_core.config import FilterConfig
from opsd_core.filters import Decision, GradedCompletion, count_reasons, filter_rollouts, repetition_factor


def completion(text="The answer is 12.", num_tokens=6, truncated=False, correct=True) -> GradedCompletion:
    return GradedCompletion(text, num_tokens, truncated, correct)


LOOP = completion("yes " * 500, num_tokens=500, truncated=True, correct=False)


def test_first_closed_gate_gives_the_reason():
    everything_wrong = GradedCompletion("  ", 3, True, False)
    config = FilterConfig(drop_truncated=True, route="correct_only")
    assert filter_rollouts([everything_wrong, LOOP], config) == [Decision(False, "empty"), Decision(False, "truncated")]
    assert filter_rollouts([LOOP], FilterConfig(route="correct_only")) == [Decision(False, "repetitive")]


def test_truncated_completions_stay_unless_configured():
    cut = completion(truncated=True)
    assert filter_rollouts([cut], FilterConfig()) == [Decision(True, "")]
    assert filter_rollouts([cut], FilterConfig(drop_truncated=True)) == [Decision(False, "truncated")]


@pytest.mark.parametrize(
    ("route", "reasons"),
    [("all", ["", "", ""]), ("incorrect_only", ["correct", "", "not_graded"]),
     ("correct_only", ["", "incorrect", "not_graded"])],
)  # fmt: skip
def test_routes(route, reasons):
    batch = [completion(correct=value) for value in (True, False, None)]
    decisions = filter_rollouts(batch, FilterConfig(route=route))
    assert [decision.reason for decision in decisions] == reasons
    assert all(decision.keep == (not decision.reason) for decision in decisions)


def test_every_completion_is_counted_once():
    batch = [completion(), LOOP, completion(""), completion(correct=False)]
    counts = count_reasons(filter_rollouts(batch, FilterConfig(route="incorrect_only")))
    assert counts == {"correct": 1, "repetitive": 1, "empty": 1, "kept": 1}


def test_repetition_factor():
    generator = random.Random(0)
    noise = "".join(generator.choice(string.printable) for _ in range(5000))
    assert repetition_factor("") == 0.0
    assert repetition_factor("12") < 1.0  # two bytes become about ten
    assert 1.0 < repetition_factor(noise) < 1.5  # 100 symbols: log2(100) / 8 = .83 of the bits
    assert repetition_factor("a" * 100) < 10 < repetition_factor("a" * 1000)
    assert repetition_factor(noise + "la " * 5000) > 100  # only the end counts
