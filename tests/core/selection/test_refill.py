"""pytest tests/core/selection/test_refill.py — who is asked again, until when, and what may not be combined with it."""

from dataclasses import replace

import pytest

from opsd_core.config import config_at, resolve
from opsd_core.config.rules.effects import settings_without_effect
from opsd_core.data import addition_examples
from opsd_core.errors import ConfigError
from opsd_core.rollout.engines.interface import Weights
from opsd_core.rollout.engines.own import OwnEngine
from opsd_core.rollout.sample import sample_each, sample_rollouts
from opsd_core.selection.grading import grade_rollouts
from opsd_core.selection.refill import Standing, asked_next, end_of, right_or_not, wanted
from tests.core.small import rollout_of, small_policy

EXAMPLES = addition_examples(6)
BY_ID = {example.id: example for example in EXAMPLES}
NAMES = [f"prompt {number}" for number in range(10)]
REFILL = {"share": 0.7, "max_rounds": 3, "max_completions": 50}


def config(**refill):
    return resolve("tiny", {"rollout": {"group_size": 4, "refill": REFILL | refill}})


@pytest.mark.parametrize(
    ("prompts", "share", "expected"), [(10, 0.7, 7), (10, 0.71, 8), (3, 1.0, 3), (0, 1.0, 0), (10, 0.1 + 0.2, 3), (7, 1e-6, 1)]
)
def test_a_share_is_a_number_of_prompts(prompts, share, expected):
    assert wanted(prompts, share) == expected


def test_it_ends_when_enough_have_one_or_a_budget_is_spent():
    settings = config()
    assert end_of(Standing(10, 7), settings) == end_of(Standing(10, 8, 3, 50), settings) == "reached"
    assert end_of(Standing(10, 6, 3, 12), settings) == "rounds"
    assert end_of(Standing(10, 6, 2, 47), settings) == "completions" and end_of(Standing(10, 6, 2, 46), settings) == ""
    assert end_of(Standing(10, 6, 2, 10**6), config(max_completions=None)) == ""
    assert end_of(Standing(0, 0), settings) == "reached", "nothing can be graded, so nothing is asked for"


def test_every_prompt_without_a_right_one_is_asked_while_the_budget_lasts():
    settings = config()
    assert asked_next(NAMES[:6], Standing(10, 4), 0, settings) == NAMES[:6]
    assert asked_next(NAMES[:6], Standing(10, 7), 0, settings) == asked_next(NAMES[:6], Standing(10, 4, 3), 0, settings) == []
    few = asked_next(NAMES[:6], Standing(10, 4, 1, 40), 0, settings)
    assert len(few) == 2 and few == sorted(few), "10 completions are left for two prompts of four"
    assert few == asked_next(NAMES[:6], Standing(10, 4, 1, 40), 0, settings)
    assert few == [name for name in NAMES if name in asked_next(NAMES[:6][::-1], Standing(10, 4, 1, 40), 0, settings)]
    drawn = {tuple(asked_next(NAMES[:6], Standing(10, 4, 1, 40), iteration, settings)) for iteration in range(20)}
    assert len(drawn) > 5, "another iteration, another draw"


@pytest.mark.parametrize(
    ("refill", "most"),
    [({"share": 0.0}, 40), ({}, 90), ({"max_completions": None}, 160), ({"max_completions": None, "group_size": 1}, 70)],
    ids=str,
)
def test_the_most_that_an_iteration_may_sample(refill, most):
    assert config(**refill).rollout.model_copy(update={"num_prompts": 10}).most_completions == most


def test_one_right_completion_is_enough_and_only_samples_of_labelled_prompts_count():
    a, b, c, d = EXAMPLES[:4]
    rollouts = [rollout_of(a.id, 0, "no"), rollout_of(a.id, 1, a.answer), rollout_of(a.id, 2, "no"), rollout_of(b.id, 0, "no")]
    rollouts += [rollout_of(c.id, 0, "no"), replace(rollout_of(d.id, 0, d.answer), source="reference")]
    examples = BY_ID | {c.id: replace(c, answer="")}
    assert right_or_not(rollouts, examples, config()) == {a.id: True, b.id: False}
    assert right_or_not([], examples, config()) == {}


def test_asking_again_goes_on_where_a_larger_group_would_have():
    """Bit for bit, whatever else is sampled beside it."""
    policy = small_policy()
    settings = resolve("tiny", {"rollout": {"group_size": 5, "max_completion_length": 6, "record_top_k": 4}})
    whole = sample_rollouts(policy, EXAMPLES, 3, settings)
    engine = OwnEngine(Weights(policy), settings.execution.rollout_batch_size)
    parts = [sample_each(engine, EXAMPLES, range(2), 3, settings), sample_each(engine, EXAMPLES[1:3], range(2, 5), 3, settings)]
    by_key = {rollout.key: rollout for rollout in whole}
    for rollout in (rollout for part in parts for rollout in part):
        same = by_key[rollout.key]
        assert (rollout.seed, rollout.completion_ids) == (same.seed, same.completion_ids)
        assert abs(rollout.logprobs_T - same.logprobs_T).max() < 1e-5


def test_accuracy_is_of_the_completions_that_every_prompt_was_asked_for():
    settings = resolve("tiny", {"rollout": {"group_size": 2, "refill": {"share": 1.0}}})
    a, b = EXAMPLES[:2]
    rollouts = [rollout_of(a.id, 0, a.answer), rollout_of(a.id, 1, a.answer)]
    rollouts += [rollout_of(b.id, sample, b.answer if sample == 5 else "no") for sample in range(6)]
    found = grade_rollouts(rollouts, BY_ID, settings)
    assert found.metrics["rollout/accuracy"] == 0.5 and found.metrics["rollout/prompts_right"] == 1.0
    plain = resolve("tiny", {"rollout": {"group_size": 6}})
    assert grade_rollouts(rollouts, BY_ID, plain).metrics["rollout/accuracy"] == 3 / 8


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"execution": {"overlap": True}}, r"refill.share=0.5 with execution.overlap=true: which prompts are asked"),
        ({"rollout": {"top_k": 1}}, r"rollout.top_k=1: .* the same completion"),
        ({"rollout": {"refill": {"max_completions": 3}}}, r"max_completions=3 is below the 4 completions"),
        ({"rollout": {"refill": {"max_completions": 5, "group_size": 6}}}, r"max_completions=5 is below the 6 completions"),
    ],
    ids=["ahead", "the same again", "budget", "own group"],
)
def test_what_makes_no_sense_is_refused_with_the_reason(overrides, said):
    with pytest.raises(ConfigError, match=said):
        resolve("tiny", {"rollout": {"group_size": 4, "refill": {"share": 0.5}}}, overrides)


def test_without_answers_nobody_knows_who_lacks_one():
    unlabelled = {"data": {"source": "rows.jsonl", "columns": {"answer": ""}}, "promotion": {"mode": "manual"}}
    context = {"teacher": {"context": "majority"}, "rollout": {"group_size": 4, "refill": {"share": 0.5}}}
    with pytest.raises(ConfigError, match=r"rollout.refill need the right answer, but data.columns.answer is empty"):
        resolve("base", unlabelled, context, {"model": {"source": "a/b"}})


@pytest.mark.parametrize(
    "overrides",
    [
        {"rollout": {"refresh": "overlap"}},
        {"rollout": {"refresh": "initial"}, "token_weights": {"max_staleness": 5}},
        {"execution": {"placement": "workers", "pools": {"gpu": 2}}},
        {"execution": {"engine": "vllm"}},
        {"rollout": {"group_size": 1}},
        {"curriculum": {"schedules": {"rollout.on_policy_fraction": [0, 0.5, 1]}}},
        {"curriculum": {"schedules": {"rollout.refill": [{"share": 0.0}, {"share": 1.0}]}}},
    ],
    ids=["overlap", "initial", "workers", "vllm", "one", "references first", "scheduled"],
)
def test_what_makes_sense_is_allowed(overrides):
    settings = resolve("tiny", {"rollout": {"group_size": 4, "refill": {"share": 0.5}}}, overrides)
    if "rollout.refill" in settings.curriculum.schedules:
        assert [config_at(settings, iteration).rollout.refill.share for iteration in (0, 5)] == [0.0, 1.0]


def test_settings_of_what_is_off_are_named():
    for refill in ({"group_size": 3}, {"max_rounds": 2}, {"max_completions": 9}):
        (said,) = settings_without_effect(resolve("tiny", {"rollout": {"refill": refill}}))
        assert said.startswith(f"rollout.refill.{next(iter(refill))}=") and "rollout.refill.share above 0" in said
    references = {"rollout": {"on_policy_fraction": 0.0, "refill": {"share": 0.5}}}
    references |= {"distillation": {"divergence": "cross_entropy"}}
    assert "rollout.refill.share=0.5" in " ".join(settings_without_effect(resolve("tiny", references)))


@pytest.mark.parametrize(
    "refill", [{"share": 1.5}, {"share": -0.1}, {"max_rounds": 0}, {"max_completions": 0}, {"rounds": 3}, 3, []], ids=str
)
def test_what_is_no_refill_is_refused(refill):
    with pytest.raises(ConfigError, match=r"rollout\.refill"):
        resolve("tiny", {"rollout": {"refill": refill}})


def test_of_a_conversation_the_last_turn_is_right_or_wrong():
    """As where completions are graded: the turns before it are no part of the answer."""
    example = EXAMPLES[0]
    said = rollout_of(example.id, 0, f"12\n\n{example.answer}")
    assert right_or_not([said], BY_ID, config()) == {example.id: False}
    assert right_or_not([replace(said, answer_start=4)], BY_ID, config()) == {example.id: True}
