"""pytest tests/core/answers/test_words.py — first lines of reports, the version page, and numbers read as they are meant."""

import json
from dataclasses import replace

import pytest

from infra.cli.outcome import reasons_of, warnings_of
from opsd_core.answers.words import (
    accuracy_interval,
    guards_in_words,
    headline,
    report_head,
    shown_accuracy,
    taught,
    version_description,
)
from opsd_core.config import PromotionConfig
from opsd_core.judgement.gate import decide
from opsd_core.judgement.verdict import WAITS, Verdict
from opsd_core.study.words import outside
from tests.core.answers.made import outcomes


def verdict(before, after, number=60, **settings):
    sides = outcomes(number, after), outcomes(number, before)
    return decide(*sides, PromotionConfig(**settings), candidate_version="2", champion_version="1")


def row(value, before, after, number=20, warns=False):
    return {"dimension": "form", "value": value, "n": number, "before": [before], "after": [after],
            "difference": [after - before, -1.0, 1.0], "p_falls": 0.001, "warns": warns}  # fmt: skip


@pytest.mark.parametrize("right, shown", [(0, "0.000 [0.000, 0.161]"), (20, "1.000 [0.839, 1.000]"), (1, "0.050 [0.009, 0.236]")])
def test_an_accuracy_near_its_ends_has_an_interval_inside_them(right, shown):
    assert shown_accuracy({"eval/accuracy": right / 20, "eval/num_items": 20.0}) == shown
    low, high = accuracy_interval(right / 20, 20)
    assert 0.0 <= low <= right / 20 <= high <= 1.0
    assert shown_accuracy({}) == "unknown (no labels)"


@pytest.mark.parametrize(
    ("probes", "kept", "unchanged", "said"),
    [
        ({"teacher/divergence": 0.5, "teacher/privilege_gain": 0.2}, 10, False, []),
        ({}, 10, False, []),
        ({"teacher/divergence": 1e-9}, 10, True, ["taught nothing: its distribution is the student's"]),
        ({"teacher/divergence": 0.5, "teacher/privilege_gain": -0.1}, 10, False, ["knows no more than the student"]),
        ({"teacher/divergence": 0.5}, 0, False, ["no completion was kept"]),
        ({"teacher/divergence": 0.5, "teacher/privilege_gain": 0.2}, 10, True, ["no held-out answer became right or wrong"]),
    ],
)
def test_a_teacher_that_taught_nothing_is_said_so(probes, kept, unchanged, said):
    found = taught(probes, kept, unchanged)
    assert len(found) == len(said) and all(part in text for part, text in zip(said, found, strict=True))


def test_worries_stand_before_anything_else_in_a_report():
    text = report_head("demo", 3, 7, WAITS, ["alarm: leak: it leaks", "Falls: form = text"], "http://a/")
    assert text.splitlines()[:6] == [
        "# demo: iteration 3 — version 7 waits for a person", "",
        "- **Alarm: leak: it leaks**", "- **Falls: form = text**", "", "[What it answers, before and after](http://a/)",
    ]  # fmt: skip
    assert report_head("demo", 0, 1, "refused", [], "x").splitlines()[2].startswith("[What it answers")


@pytest.mark.parametrize("outcome", ["promoted", "refused", WAITS])
def test_the_version_page_is_ten_lines_and_agrees_with_the_tags(outcome):
    judged = verdict({0}, set(range(30)))
    slices = [row("a", 0.2, 0.5), row("b", 0.5, 0.1, warns=True)]
    links = {"answers": "http://a/", "run": "http://b/", "nothing": ""}
    text = version_description(judged, outcome, slices, links)
    assert len(text.splitlines()) <= 10 and text.lower().startswith(f"**{outcome}** against version 1")
    assert "although the whole does not: form = b" in text and "[answers](http://a/) · [run](http://b/)" in text
    assert judged.tags(outcome)["gate.verdict"] == outcome
    assert judged.markdown(outcome).lower().startswith(f"## {outcome}: version 2")
    assert "the lowest is form = a (+30.0 points on 20 items)" in version_description(judged, outcome, slices[:1], links)
    assert "none has enough items" in version_description(judged, outcome, [row("a", 0.2, 0.5, number=3)], links)


def test_a_gain_that_must_be_above_zero_reads_so():
    equal, same = verdict({0, 1}, {0, 2}), verdict({0}, {0}, min_effect=0.02)
    (gain,) = [check for check in equal.checks if check.name == "gain"]
    assert (gain.rule, gain.threshold, gain.passed) == (">", 0.0, False)
    assert "| gain | 0 | > 0 | NO |" in equal.markdown() and "is not above 0." in " ".join(equal.reasons)
    (gain,) = [check for check in same.checks if check.name == "gain"]
    assert (gain.rule, gain.threshold) == (">=", 0.02) and "is below promotion.min_effect = 0.02" in " ".join(same.reasons)


def test_interval_and_p_that_point_to_different_sides_are_explained():
    """Five better, none worse: the exact test says p = 1/32, while no resample of the items is below 0."""
    border, clear = verdict(set(), set(range(5))), verdict(set(), set(range(30)))
    assert border.interval[0] > 0 and border.p_value == pytest.approx(1 / 32)
    assert "point to different sides" in border.markdown()
    assert "point to different sides" not in clear.markdown() + verdict({0}, {1}).markdown()
    shared = verdict(set(), set(range(6)), alpha=0.01)
    assert shared.interval[0] > 0 and "held against 0.01, and comes from an exact test" in shared.markdown()
    loose = verdict({0}, set(range(1, 5)), alpha=0.2)
    assert loose.interval[0] <= 0 and loose.p_value <= 0.2 and "held against 0.2" in loose.markdown()


def test_a_difference_says_why_it_is_inside_noise_where_interval_and_p_disagree():
    base = {"metric": "accuracy", "outside_noise": False, "num_tests": 6, "low": -0.1, "high": 0.2, "p_value": 0.4}
    assert outside(base) == "no" and outside(base | {"outside_noise": True}) == "yes"
    assert outside(base | {"low": 0.01, "p_value": 0.03}) == (
        "no: the interval excludes 0, but p = 0.03 is not small enough for 6 comparisons"
    )
    assert outside(base | {"p_value": 0.04}) == "no: p is small, but the interval includes 0"
    assert outside(base | {"metric": "avg@k"}) == "not tested"


def test_what_a_verdict_warns_of_stands_in_its_first_lines_is_kept_and_is_no_reason():
    judged = replace(verdict({0}, set(range(20))), warnings=("Falls: a = b",))
    text = judged.markdown()
    assert text.index("**Warning:** Falls: a = b") < text.index("| champion |")
    assert len(text[: text.index("Falls")].splitlines()) <= 6
    assert Verdict.from_dict(json.loads(json.dumps(judged.as_dict()))) == judged
    old = {name: value for name, value in judged.as_dict().items() if name != "warnings"}
    assert Verdict.from_dict(old) == replace(judged, warnings=())
    report = f"# demo\n\n{text}"
    assert reasons_of(report) == list(judged.reasons) and warnings_of(report) == ["  Warning: Falls: a = b"]


def test_a_campaigns_headline_is_what_changed():
    judged = [(2, "refused"), (3, "promoted"), (4, "refused")]
    told = headline("demo", (0.313, 0.473), judged, "all 5 guards hold")
    assert told == "demo: version 3 promoted; accuracy 31.3 % → 47.3 %; all 5 guards hold"
    assert "nothing promoted of 1 version(s); accuracy unknown → unknown; length_ratio_max failed" in headline(
        "demo", (None, None), [(2, "refused")], "length_ratio_max failed"
    )
    assert "version 2 waits for a person" in headline("demo", (0.1, 0.2), [(2, WAITS)], "all 5 guards hold")
    assert headline("demo", (None, None), [], "") == "demo: no iteration ended, the champion stays"
    found = verdict({0}, {0})  # no gain, which is no guard rail
    assert guards_in_words(found) == "all 5 guard rails hold"
    broken = tuple(replace(check, passed=False) if check.name == "length_ratio_max" else check for check in found.checks)
    assert guards_in_words(replace(found, checks=broken)) == "length_ratio_max failed"
