"""Sample gates: order, reasons, and that nothing gets lost."""

import random
import string

import pytest

from opsd_core.config import FilterConfig, resolve
from opsd_core.errors import ConfigError
from opsd_core.graders.agreement import Agreement, final_answer, votes_of
from opsd_core.records.grades import GradedRollout, read_grades, write_grades
from opsd_core.selection.filters import (
    Decision,
    GradedCompletion,
    count_reasons,
    filter_rollouts,
    repetition_factor,
    teacher_probe_reason,
)


def completion(text="The answer is 12.", num_tokens=6, truncated=False, correct=True, **known) -> GradedCompletion:
    return GradedCompletion(text, num_tokens, truncated, correct, **known)


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


def test_gates_stand_in_their_order():
    """Each completion fails one gate less; the first failed one gives the reason."""
    strict = FilterConfig(drop_truncated=True, drop_leaks=True, min_score=0.5, min_agreement=0.5, route="incorrect_only")
    worst = {"num_tokens": 0, "truncated": True, "correct": True, "score": 0.0, "leaks": True}
    worst |= {"text": "yes " * 500, "agreement": Agreement(0.25, True)}
    reasons = []
    for better in ({}, {"num_tokens": 9}, {"truncated": False}, {"text": "no"}, {"leaks": False}, {"score": 0.5},
                   {"agreement": Agreement(0.5, True)}, {"correct": False}):  # fmt: skip
        worst |= better
        reasons.append(filter_rollouts([GradedCompletion(**worst)], strict)[0].reason)
    assert reasons == ["empty", "truncated", "repetitive", "leak", "low_score", "no_majority", "correct", ""]


def test_leaks_are_dropped_only_when_asked():
    leaking = completion(leaks=True)
    assert filter_rollouts([leaking], FilterConfig()) == [Decision(True, "")]
    assert filter_rollouts([leaking], FilterConfig(drop_leaks=True)) == [Decision(False, "leak")]


def test_reward_gate_keeps_the_threshold_itself():
    batch = [completion(score=score) for score in (0.49, 0.5, None)]
    reasons = [decision.reason for decision in filter_rollouts(batch, FilterConfig(min_score=0.5))]
    assert reasons == ["low_score", "", "not_graded"]


def test_votes_by_hand():
    """Prompt a: 12 twice of four (one without an answer) -> share 1/2; prompt b: a tie, which the first answer wins."""
    ids, answers = ["a", "b", "a", "b", "a", "a"], ["12", "7", "12", "8", None, "3"]
    votes = list(votes_of(ids, answers))
    assert [v.share for v in votes] == [0.5] * 6
    assert [v.agrees for v in votes] == [True, True, True, False, False, False]
    assert list(votes_of(["c"], [None])) == [Agreement(0.0, False)]
    assert final_answer("so the answer is 12.0") == final_answer("I get\n#### 12") == "12"
    assert final_answer("") is None


@pytest.mark.parametrize(
    ("route", "reasons"),
    [("all", ["", "", "no_majority"]), ("agreeing", ["", "disagrees", "no_majority"]),
     ("disagreeing", ["agrees", "", "no_majority"])],
)  # fmt: skip
def test_majority_gate(route, reasons):
    batch = [completion(agreement=Agreement(*vote)) for vote in ((0.5, True), (0.5, False), (0.4, True))]
    decisions = filter_rollouts(batch, FilterConfig(min_agreement=0.5, majority_route=route))
    assert [decision.reason for decision in decisions] == reasons
    with pytest.raises(ConfigError, match=r"group_size=1: one completion always agrees"):
        resolve("tiny", {"filter": {"majority_route": route, "min_agreement": 0.5}})


def test_pass_rate_routing_weighs_and_drops_nothing():
    """4 p (1 - p): 1 at 1/2, .64 at .2, .75 at 3/4."""
    batch = [completion(pass_rate=rate) for rate in (0.5, 0.2, 0.75)]
    decisions = filter_rollouts(batch, FilterConfig(route="pass_rate"))
    assert all(decision.keep for decision in decisions)
    assert [decision.weight for decision in decisions] == pytest.approx([1.0, 0.64, 0.75])
    assert [d.reason for d in filter_rollouts([completion(correct=None)], FilterConfig(route="pass_rate"))] == ["not_graded"]


def test_teacher_probe_reasons():
    gain, answer = FilterConfig(teacher_probe="gain", min_gain=0.1), FilterConfig(teacher_probe="answer")
    assert [teacher_probe_reason(g, False, gain) for g in (-1.0, 0.1, 0.2)] == ["teacher_no_gain", "teacher_no_gain", ""]
    assert [teacher_probe_reason(0.0, right, answer) for right in (False, True)] == ["teacher_wrong", ""]
    assert teacher_probe_reason(-1.0, False, FilterConfig()) == ""
    with pytest.raises(ConfigError, match=r"filter\.teacher_probe=gain with teacher\.context=none"):
        resolve("tiny", {"filter": {"teacher_probe": "gain"}, "teacher": {"context": "none", "temperature": 0.8}})


def test_gates_that_need_labels_are_refused_without():
    with pytest.raises(ConfigError, match=r"filter\.min_score, filter\.teacher_probe need the right answer"):
        resolve(
            "tiny",
            {
                "data": {"source": "rows.jsonl", "columns": {"answer": ""}},
                "filter": {"min_score": 0.5, "teacher_probe": "gain"},
            },
        )


def test_grades_round_trip(tmp_path):
    rows = [
        GradedRollout("a", 0, True, 1.0, "12", True, "", weight=0.75, leaks=True, agreement=0.5, agrees=True),
        GradedRollout("a", 1, None, None, None, False, "teacher_no_gain", teacher_gain=-0.5),
    ]
    write_grades(tmp_path / "grades.parquet", rows)
    assert read_grades(tmp_path / "grades.parquet") == rows
