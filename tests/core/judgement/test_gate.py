"""The gate: what it promotes, what it refuses and why, and how often it is wrong."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from opsd_core.config import PromotionConfig
from opsd_core.errors import DataError
from opsd_core.judgement.gate import decide
from opsd_core.records.outcomes import ItemOutcome

BASE = ItemOutcome("", "greedy", 0, False, 0.0, "1", 20, False, 2.0, 0.5, "text")


def outcomes(correct, **changes) -> list[ItemOutcome]:
    """Greedy outcomes, one for each entry of `correct`."""
    return [
        replace(BASE, example_id=f"{i:04d}", correct=bool(c), score=float(c), **changes) for i, c in enumerate(correct)
    ]


def judge(candidate, champion, digests=("e", "e"), iterations=1, **settings):
    return decide(
        candidate,
        champion,
        PromotionConfig(**settings),
        candidate_version="2",
        champion_version="1",
        candidate_evaluation=digests[0],
        champion_evaluation=digests[1],
        iterations=iterations,
    )


BEFORE = [1] * 20 + [0] * 80
AFTER = [1] * 19 + [0] + [1] * 15 + [0] * 65  # 15 wins, 1 loss


def test_a_clear_gain_is_promoted_with_its_numbers():
    verdict = judge(outcomes(AFTER), outcomes(BEFORE))
    assert verdict.promote
    assert (verdict.wins, verdict.losses, verdict.ties, verdict.num_items) == (15, 1, 84, 100)
    assert (verdict.accuracy_before, verdict.accuracy_after) == (0.20, 0.34)
    assert verdict.difference == pytest.approx(0.14)
    assert verdict.p_value == pytest.approx(17 / 2**16)  # C(16, 15) + C(16, 16) = 17
    assert verdict.interval[0] < 0.14 < verdict.interval[1] and verdict.interval[0] > 0
    assert "rose from 0.200 to 0.340" in verdict.reasons[0]


def test_an_equal_or_worse_candidate_is_refused_with_the_reason():
    verdict = judge(outcomes(BEFORE), outcomes(BEFORE))
    assert not verdict.promote and verdict.p_value == 1.0
    assert any("Not significant: 0 items better, 0 worse" in reason for reason in verdict.reasons)
    worse = judge(outcomes(BEFORE), outcomes(AFTER))
    assert not worse.promote and worse.difference == pytest.approx(-0.14)


def test_the_iterations_of_a_campaign_share_alpha():
    """6 wins without a loss, p = 1/64: enough for the only decision of a campaign, not for one of six."""
    sides = outcomes([1] * 26 + [0] * 74), outcomes(BEFORE)
    assert judge(*sides).promote and judge(*sides, iterations=3).promote
    refused = judge(*sides, iterations=6)
    assert not refused.promote and refused.checks[0].threshold == pytest.approx(0.05 / 6)
    assert refused.reasons == (
        "Not significant: 6 items better, 0 worse, p = 0.01562 > promotion.alpha / iterations = 0.05 / 6 = 0.00833.",
    )
    assert judge(*sides, iterations=6, alpha_per="iteration").promote


def test_four_wins_without_a_loss_are_not_enough():
    four = outcomes([1] * 4 + [0] * 96)
    for test in ("mcnemar", "bootstrap"):
        verdict = judge(four, outcomes([0] * 100), test=test)
        assert not verdict.promote and verdict.p_value == pytest.approx(1 / 16, abs=0.01)
    assert judge(outcomes([1] * 5 + [0] * 95), outcomes([0] * 100)).promote  # 1/32


def test_minimum_effect():
    assert judge(outcomes(AFTER), outcomes(BEFORE), min_effect=0.14).promote
    verdict = judge(outcomes(AFTER), outcomes(BEFORE), min_effect=0.15)
    assert not verdict.promote and "min_effect = 0.15" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"num_tokens": 41}, "length_ratio_max"),
        ({"num_tokens": 9}, "length_ratio_min"),
        ({"num_tokens": 0}, "length_ratio_min"),
        ({"truncated": True}, "truncation_increase"),
        ({"repetition": 10.5}, "repetition_increase"),
        ({"mean_entropy": 0.04}, "entropy_ratio"),
        ({"mean_entropy": math.nan}, "entropy_ratio"),
    ],
)
def test_guard_rails_refuse_a_better_but_degenerate_candidate(changes, name):
    verdict = judge(outcomes(AFTER, **changes), outcomes(BEFORE))
    assert not verdict.promote
    assert name in [check.name for check in verdict.checks if not check.passed]
    assert verdict.checks[0].passed and "promotion." in verdict.reasons[0]
    json.dumps(verdict.as_dict(), allow_nan=False)


def test_values_on_the_limit_pass():
    assert judge(outcomes(AFTER, num_tokens=40), outcomes(BEFORE)).promote
    assert judge(outcomes(AFTER, num_tokens=10, mean_entropy=0.05), outcomes(BEFORE)).promote


def test_a_champion_with_empty_or_certain_completions_divides_by_nothing():
    silent = outcomes(BEFORE, num_tokens=0, mean_entropy=0.0)
    assert judge(outcomes(AFTER, num_tokens=0, mean_entropy=0.0), silent).promote
    verdict = judge(outcomes(AFTER), silent)
    assert not verdict.promote
    json.dumps(verdict.as_dict(), allow_nan=False)


def test_evaluations_of_something_else_are_not_compared():
    with pytest.raises(DataError, match="other items, grader or settings"):
        judge(outcomes(AFTER), outcomes(BEFORE), digests=("e", "f"))
    with pytest.raises(DataError, match=r"share 99 items; 1 are the candidate's alone and 0"):
        judge(outcomes(AFTER), outcomes(BEFORE[:-1]))
    with pytest.raises(DataError, match="no outcomes"):
        judge([], outcomes(BEFORE))


def sampled(rates, n=4, seed=0) -> list[ItemOutcome]:
    generator = np.random.default_rng(seed)
    return [
        replace(BASE, example_id=f"{i:04d}", mode="sampled", sample_index=j, correct=bool(generator.random() < rate))
        for i, rate in enumerate(rates)
        for j in range(n)
    ]


def test_bootstrap_uses_all_samples_and_mcnemar_only_greedy_ones():
    candidate = outcomes(BEFORE) + sampled([0.6] * 100, seed=1)
    champion = outcomes(BEFORE) + sampled([0.3] * 100, seed=2)
    verdict = judge(candidate, champion, test="bootstrap")
    assert verdict.promote and verdict.metric == "avg@4" and verdict.num_items == 100
    assert verdict.difference == pytest.approx(0.3, abs=4 * math.sqrt(0.45 / 400))
    assert judge(candidate, champion, test="mcnemar").metric == "accuracy"
    with pytest.raises(DataError, match="different numbers of samples"):
        judge(candidate, outcomes(BEFORE) + sampled([0.3] * 100, n=2), test="bootstrap")


def test_the_order_of_the_outcomes_does_not_matter():
    shuffled = outcomes(AFTER)
    np.random.default_rng(0).shuffle(shuffled)
    assert judge(shuffled, outcomes(BEFORE)) == judge(outcomes(AFTER), outcomes(BEFORE))


@pytest.mark.parametrize("accuracy", [0.1, 0.5])
def test_equal_candidates_are_promoted_no_more_often_than_alpha(accuracy):
    """1,000 null campaigns of 200 items at each accuracy; the checks other than the test cannot fail here."""
    generator = np.random.default_rng(int(accuracy * 10))
    wrong, right = outcomes([0] * 200), outcomes([1] * 200)
    promotions = 0
    for _ in range(1000):
        draws = generator.random((2, 200)) < accuracy
        sides = [[right[i] if draw[i] else wrong[i] for i in range(200)] for draw in draws]
        promotions += judge(*sides).promote
    # alpha = .05, and a binomial standard error of .007: the exact test stays below alpha itself
    assert promotions / 1000 <= 0.05


def test_verdict_is_shown_in_words_tags_and_json():
    verdict = judge(outcomes(AFTER, num_tokens=60), outcomes(BEFORE))
    text = verdict.markdown()
    assert text.startswith("## Refused: version 2 against champion 1")
    assert "| accuracy, 100 items | 0.200 | 0.340 | +0.140 |" in text and "| NO |" in text
    tags = verdict.tags()
    assert tags["gate.verdict"] == "refused" and "0.2000 -> 0.3400 (+0.1400" in tags["gate.numbers"]
    assert "wins/losses/ties 15/1/84" in tags["gate.numbers"]
    assert all(isinstance(value, str) and len(value) <= 250 for value in tags.values())
    assert json.loads(json.dumps(verdict.as_dict(), allow_nan=False))["checks"][0]["name"] == "p_value"


def in_blocks(candidate, champion, planned, **settings):
    return decide(candidate, champion, PromotionConfig(test="sequential", **settings), planned=planned)


def test_a_sequential_verdict_says_where_it_stopped_and_why():
    """60 of 400 items answered: enough for a promotion by the bets alone; its p holds although one stopped there."""
    verdict = in_blocks(outcomes([1] * 30 + [0] * 30), outcomes([0] * 60), 400)
    assert verdict.promote and verdict.sequential.outcome == "promote" and verdict.num_items == 60
    assert verdict.p_value == pytest.approx(1 / verdict.sequential.e_value) and verdict.p_value > 0.5**30
    assert "Stopped after 60 of 400 items: the evidence was enough. About 6,800 tokens" in verdict.reasons[-1]
    assert "60 of 400 items" in verdict.tags()["gate.numbers"] and "60 of 400 items" in verdict.markdown()
    assert "does not allow for stopping" in verdict.markdown()
    assert verdict.metrics() == {
        "gate/items_used": 60.0, "gate/items_planned": 400.0, "gate/tokens_saved": 6800.0,
        "gate/e_value": verdict.sequential.e_value,
    }  # fmt: skip
    assert json.loads(json.dumps(verdict.as_dict()))["sequential"]["num_planned"] == 400


def test_a_sequential_test_gives_up_and_says_that_it_did():
    verdict = in_blocks(outcomes([0] * 130), outcomes([0] * 130), 200)
    assert not verdict.promote and verdict.sequential.outcome == "futile"
    assert any("less than 2% chance" in reason for reason in verdict.reasons)
    certain = in_blocks(outcomes([0] * 100), outcomes([0] * 100), 103)
    assert certain.sequential.outcome == "refuse" and any("no answers to the remaining" in r for r in certain.reasons)


def test_all_items_answered_are_judged_by_four_fifths_of_the_level():
    after, before = outcomes(AFTER), outcomes(BEFORE)
    verdict = in_blocks(after, before, 100)
    assert verdict.promote and verdict.p_value <= 17 / 2**16 * 5 / 4 + 1e-12
    assert verdict.reasons[-1] == "All 100 items were needed."


def test_guard_rails_and_smallest_gain_hold_for_a_sequential_promotion_too():
    long = outcomes([1] * 30 + [0] * 30, num_tokens=200)
    verdict = in_blocks(long, outcomes([0] * 60), 400)
    assert not verdict.promote and verdict.sequential.outcome == "promote" and "times as long" in verdict.reasons[0]
    small = in_blocks(outcomes([1] * 30 + [0] * 30), outcomes([0] * 60), 400, min_effect=0.6)
    assert not small.promote and "promotion.min_effect = 0.6" in small.reasons[0]


def test_sequential_compares_the_means_of_samples_where_both_sides_have_some():
    def sampled(shares):
        rows = [(i, j, j < 4 * share) for i, share in enumerate(shares) for j in range(4)]
        return [
            replace(BASE, example_id=f"{i:04d}", mode="sampled", sample_index=j, correct=right, score=float(right))
            for i, j, right in rows
        ]

    verdict = in_blocks(sampled([0.75] * 40 + [0.25] * 10), sampled([0.25] * 50), 200)
    assert verdict.promote and verdict.metric == "avg@4" and verdict.num_items == 50
    assert not in_blocks(sampled([0.25] * 50), sampled([0.25] * 50), 60).promote
