"""pytest tests/core/judgement/test_guards.py — what a guard holds, refuses or leaves open, and how many items that needs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from opsd_core.config import PromotionConfig, PromptConfig, TeacherConfig
from opsd_core.config.guards import GuardConfig
from opsd_core.data.examples import make_example
from opsd_core.errors import DataError
from opsd_core.judgement.gate import decide
from opsd_core.judgement.guard_sizes import fewest_items, needed_items, power, size_in_words
from opsd_core.judgement.guards import Answered, judge_guard, with_guards
from opsd_core.judgement.likelihood import mean_of_pairs, text_outcomes
from opsd_core.judgement.verdict import Verdict
from opsd_core.models.forward import completion_hidden
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.outcomes import ItemOutcome
from tests.core.small import small_policy

BASE = ItemOutcome("", "greedy", 0, False, 0.0, "1", 20, False, 2.0, 0.5, "text")
COPYING = GuardConfig(suite="tiny_copying")
TEXT = GuardConfig(suite="plain_text")


def answers(right, role="candidate", version="2", conditions="same"):
    outcomes = [replace(BASE, example_id=f"{i:05d}", correct=bool(c), score=float(c)) for i, c in enumerate(right)]
    return Answered(role, version, outcomes, conditions)


def texts(values, role="candidate", version="2", conditions="same"):
    outcomes = [replace(BASE, example_id=f"{i:05d}", mode="given", score=float(v)) for i, v in enumerate(values)]
    return Answered(role, version, outcomes, conditions)


def judged(after, before, guard=COPYING, alpha=0.05, role="champion"):
    return judge_guard(guard, answers(after), answers(before, role, "1"), alpha)


def test_a_large_drop_is_violated_a_small_one_held_and_few_items_say_nothing():
    lost = judged([1] * 74 + [0] * 26, [1] * 98 + [0] * 2)
    assert lost.verdict == "violated" and lost.refuses and lost.drop == pytest.approx(0.24)
    assert (lost.wins, lost.losses) == (0, 24) and "98.0 → 74.0 %, a drop of +24.0 points" in lost.sentence
    assert lost.sentence.startswith("Guard tiny_copying against champion (version 1) is violated")
    kept = judged([1] * 990 + [0] * 10, [1] * 1000)
    assert kept.verdict == "held" and not kept.refuses and kept.high < 0.05
    few = judged([1] * 49 + [0], [1] * 50)
    assert few.verdict == "inconclusive" and few.refuses and few.low < 0.05 <= few.high
    warned = judge_guard(GuardConfig(suite="tiny_copying", inconclusive="warn"), answers([1] * 49 + [0]), answers([1] * 50), 0.05)
    assert warned.verdict == "inconclusive" and not warned.refuses


def test_a_drop_that_is_certain_but_tolerated_is_held_and_one_beyond_is_violated():
    before, size = [1] * 4000, 4000
    assert judged([0] * 120 + [1] * (size - 120), before).verdict == "held"  # 3 points, limits [2.6, 3.5]
    assert judged([0] * 320 + [1] * (size - 320), before).verdict == "violated"
    gained = judged([1] * 100, [0] * 60 + [1] * 40)
    assert gained.verdict == "held" and gained.drop == pytest.approx(-0.6)


def test_a_rise_of_text_likelihood_is_held_and_a_fall_is_violated():
    generator = np.random.default_rng(0)
    before = generator.normal(-3.0, 0.5, size=64)

    def judged_texts(change):
        return judge_guard(TEXT, texts(before + change), texts(before, "champion", "1"), 0.05)

    assert judged_texts(0.0).verdict == "held" and judged_texts(0.0).high == 0.0
    assert judged_texts(generator.normal(0.01, 0.05, size=64)).verdict == "held"
    assert judged_texts(-generator.exponential(0.3, size=64)).verdict == "violated"
    unsure = judged_texts(generator.normal(-0.03, 0.3, size=64))
    assert unsure.verdict == "inconclusive" and "nats per token" in unsure.sentence


def test_other_conditions_or_other_items_never_compare():
    same = answers([1] * 60)
    for other in (answers([1] * 60, "champion", "1", "other"), answers([1] * 59, "champion", "1")):
        with pytest.raises(DataError, match=r"promotion\.guards\[tiny_copying\]: champion \(version 1\) .* other conditions"):
            judge_guard(COPYING, same, other, 0.05)
    with pytest.raises(DataError, match=r"holds no given outcomes"):
        judge_guard(TEXT, same, same, 0.05)


def gate(after, before, **settings):
    return decide(
        after.outcomes, before.outcomes, PromotionConfig(**settings), candidate_version="2", champion_version="1"
    )


def test_the_candidate_that_gains_fifty_points_and_loses_twenty_four_is_refused_by_name_of_the_guard():
    better = gate(answers([1] * 80 + [0] * 20), answers([1] * 30 + [0] * 70))
    assert better.promote
    lost = judged([1] * 74 + [0] * 26, [1] * 98 + [0] * 2)
    refused = with_guards(better, [lost])
    assert not refused.promote and refused.reasons == (lost.sentence,)
    text = refused.markdown()
    assert "## Refused" in text and "| tiny_copying | champion 1 |" in text and "VIOLATED" in text
    assert refused.tags()["gate.guards"] == "tiny_copying violated (drop +24.0 points)"
    promoted = with_guards(better, [judged([1] * 100, [1] * 100)])
    assert promoted.promote and promoted.reasons[-1] == "Guards held: tiny_copying."
    assert Verdict.from_dict(json.loads(json.dumps(refused.as_dict()))) == refused
    older = {name: value for name, value in refused.as_dict().items() if name != "guards"}
    assert Verdict.from_dict(older).guards == ()


def test_what_is_inconclusive_refuses_or_warns_and_a_refusal_of_the_gate_keeps_its_reasons():
    better = gate(answers([1] * 80 + [0] * 20), answers([1] * 30 + [0] * 70))
    guard = GuardConfig(suite="tiny_copying", inconclusive="warn")
    unsure = judge_guard(guard, answers([1] * 49 + [0]), answers([1] * 50, "champion", "1"), 0.05)
    assert with_guards(better, [replace(unsure, inconclusive="refuse")]).promote is False
    warned = with_guards(better, [unsure])
    assert warned.promote and unsure.sentence in warned.reasons
    equal = gate(answers([1] * 50), answers([1] * 50))
    both = with_guards(equal, [judged([0] * 50, [1] * 50)])
    assert not both.promote and "Not significant" in both.reasons[0] and "violated" in " ".join(both.reasons)


def test_ten_promotions_that_each_lose_two_points_are_stopped_by_the_anchor():
    """Items are lost two points at a time, always other ones; the champion alone would let all ten pass."""
    size, step = 2000, 40
    guard = GuardConfig(suite="tiny_copying", num_items=size)
    anchor = answers([1] * size, "anchor", "1")
    champion_alone, with_anchor, champion = [], [], anchor
    for number in range(1, 11):
        candidate = answers([0] * (step * number) + [1] * (size - step * number), version=str(number + 1))
        against = replace(champion, role="champion")
        results = [judge_guard(guard, candidate, other, 0.05) for other in (against, anchor)]
        champion_alone.append(results[0].verdict)
        with_anchor.append(results[1].verdict)
        champion = candidate
    assert set(champion_alone) == {"held"}
    assert with_anchor[0] == "held" and with_anchor[2:] == ["violated"] * 8


def test_the_size_that_can_never_hold_is_told_from_the_one_that_can():
    for max_drop in (0.02, 0.05, 0.2):
        guard = GuardConfig(suite="tiny_copying", max_drop=max_drop)
        fewest = fewest_items(guard, 0.05)
        assert judged([1] * fewest, [1] * fewest, guard).verdict == "held"
        assert judged([1] * (fewest - 1), [1] * (fewest - 1), guard).verdict == "inconclusive"
    assert fewest_items(COPYING, 0.05) == 52 and fewest_items(TEXT, 0.05) == 20


def test_the_power_is_that_of_simulated_equal_candidates():
    generator, number = np.random.default_rng(0), 250
    held = 0
    for _ in range(300):
        better, worse, _ = generator.multinomial(number, [0.05, 0.05, 0.9])
        before = [1] * worse + [0] * better + [1] * (number - worse - better)
        after = [0] * worse + [1] * better + [1] * (number - worse - better)
        held += judged(after, before).verdict == "held"
    assert held / 300 == pytest.approx(power(COPYING, number, 0.05), abs=0.08)
    needed = needed_items(COPYING, 0.05)
    assert power(COPYING, needed, 0.05) >= 0.8 > power(COPYING, needed - 2, 0.05)
    text = needed_items(TEXT, 0.05)
    assert text == math.ceil(((norm.isf(0.05) + norm.ppf(0.8)) * 0.1 / 0.05) ** 2) == 25
    words = size_in_words(COPYING, 150, 0.05)
    assert "150 items" in words and f"80% need {needed} items" in words and "fewer than 52 never hold" in words


def test_likelihoods_are_those_of_the_models_logits():
    """A text after the student's prompt, and a text as it stands, token by token in float64."""
    policy = small_policy()
    builder = PromptBuilder(policy.tokenizer, PromptConfig(student="ask {{ question }}="), TeacherConfig())
    examples = [make_example("12+34", "46 is it"), make_example("all plain text")]
    found = text_outcomes(policy, examples, builder)
    assert [o.mode for o in found] == ["given", "given"] and [o.num_tokens for o in found] == [8, 13]
    encode = policy.tokenizer.encode
    for outcome, (given, predicted) in zip(
        found, [(encode("ask 12+34="), encode("46 is it")), (encode("a"), encode("ll plain text"))], strict=True
    ):
        hidden = completion_hidden(policy, [given], [predicted])
        logits = policy.causal_lm.lm_head(hidden).detach().double()
        logprobs = logits - logits.logsumexp(-1, keepdim=True)
        expected = sum(float(logprobs[i, token]) for i, token in enumerate(predicted)) / len(predicted)
        assert outcome.score == pytest.approx(expected, abs=1e-5)
        assert mean_of_pairs(policy, [(given, predicted)])[0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DataError, match="a text of one token"):
        text_outcomes(policy, [make_example("a")], builder)
