"""pytest tests/core/selection/test_groups.py — which of a prompt's completions are kept, and why the others are not."""

import json
import random
from dataclasses import replace
from functools import lru_cache

import pytest

from opsd_core.config import resolve
from opsd_core.data import addition_examples
from opsd_core.errors import ConfigError
from opsd_core.selection.grading import grade_rollouts
from opsd_core.selection.groups import KEPT, Candidate
from tests.core.small import rollout_of

EXAMPLES = addition_examples(8)
BY_ID = {example.id: example for example in EXAMPLES}
LENGTHS = (7, 4, 4, 2, 9)
"""Tokens of a prompt's five completions: of the right ones (0, 1, 2) the second is the shortest, the wrong 3 is shorter still."""


def completions(example, rights=(True, True, True, False, False), lengths=LENGTHS):
    return [
        rollout_of(example.id, sample, example.answer if right else f"{example.answer}9", [], [5] * length)
        for sample, (right, length) in enumerate(zip(rights, lengths, strict=True))
    ]


@lru_cache
def config_of(overrides):
    return resolve("tiny", {"rollout": {"group_size": 5}}, json.loads(overrides))


def graded(rollouts, examples=None, withheld=None, seed=0, **overrides):
    config = config_of(json.dumps(overrides)).model_copy(update={"seed": seed})
    found = grade_rollouts(rollouts, examples or BY_ID, config, withheld=withheld)
    return found, {row.key: row.reason for row in found.rows}


def kept(reasons):
    return sorted(key for key, reason in reasons.items() if not reason)


SHORTEST = {"filter": {"keep_per_prompt": "shortest_right"}}
RANDOM = {"filter": {"keep_per_prompt": "random"}}


def test_by_default_all_are_kept():
    found, reasons = graded(completions(EXAMPLES[0]))
    assert len(kept(reasons)) == 5 and found.reasons == {"kept": 5}


def test_the_shortest_right_one_is_kept_and_each_drop_says_why():
    found, reasons = graded(completions(EXAMPLES[0]), **SHORTEST)
    assert [reasons[EXAMPLES[0].id, sample] for sample in range(5)] == [
        "not_shortest", "", "not_shortest", "incorrect", "incorrect",
    ]  # fmt: skip
    assert found.reasons == {"not_shortest": 2, "kept": 1, "incorrect": 2} and found.num_kept == 1


def test_a_prompt_without_a_right_one_keeps_none():
    rollouts = completions(EXAMPLES[0], [False] * 5) + completions(EXAMPLES[1])
    found, reasons = graded(rollouts, **SHORTEST)
    assert kept(reasons) == [(EXAMPLES[1].id, 1)] and found.reasons["incorrect"] == 7
    assert found.metrics["rollout/prompts_right"] == 0.5 and found.metrics["rollout/accuracy"] == pytest.approx(0.3)


def test_where_the_shortest_right_one_was_left_out_the_next_one_is_kept():
    """By another filter, or because there is nothing to show its teacher."""
    rollouts, example = completions(EXAMPLES[0], lengths=(7, 4, 5, 2, 9)), EXAMPLES[0]
    cut = [rollouts[0], replace(rollouts[1], finish_reason="length"), *rollouts[2:]]
    _, reasons = graded(cut, filter={"drop_truncated": True, **SHORTEST["filter"]})
    assert kept(reasons) == [(example.id, 2)] and reasons[example.id, 1] == "truncated"
    sibling = {"teacher": {"context": "sibling_success"}}
    _, reasons = graded(rollouts, withheld=lambda correct: {(example.id, 1): "no_context"}, **SHORTEST, **sibling)
    assert kept(reasons) == [(example.id, 2)] and reasons[example.id, 1] == "no_context"


def test_what_is_kept_does_not_depend_on_the_order_or_on_other_prompts():
    rollouts = [row for example in EXAMPLES[:4] for row in completions(example)]
    for overrides in (SHORTEST, RANDOM):
        _, whole = graded(rollouts, **overrides)
        shuffled = random.Random(1).sample(rollouts, len(rollouts))
        assert kept(graded(shuffled, **overrides)[1]) == kept(whole)
        alone = [key for example in EXAMPLES[:4] for key in kept(graded(completions(example), **overrides)[1])]
        assert sorted(alone) == kept(whole)


def test_a_random_one_follows_from_seed_and_prompt_and_falls_on_every_completion():
    example = EXAMPLES[0]
    drawn = [kept(graded(completions(example), seed=seed, **RANDOM)[1]) for seed in range(40)]
    assert all(len(one) == 1 for one in drawn) and {one[0][1] for one in drawn} == set(range(5))
    assert drawn == [kept(graded(completions(example), seed=seed, **RANDOM)[1]) for seed in range(40)]
    assert graded(completions(example), **RANDOM)[0].reasons == {"kept": 1, "not_drawn": 4}
    of_prompts = {kept(graded(completions(other), **RANDOM)[1])[0][1] for other in EXAMPLES}
    assert len(of_prompts) > 1, "another prompt, another draw"


def test_a_random_one_is_drawn_among_those_that_passed_the_other_filters():
    right = {"filter": {"keep_per_prompt": "random", "route": "correct_only"}}
    for seed in range(10):
        assert kept(graded(completions(EXAMPLES[0]), seed=seed, **right)[1])[0][1] in (0, 1, 2)


def test_ungraded_completions_are_neither_right_nor_wrong():
    unlabelled = {EXAMPLES[0].id: replace(EXAMPLES[0], answer="")}
    found, reasons = graded(completions(EXAMPLES[0]), unlabelled, **SHORTEST)
    assert set(reasons.values()) == {"not_graded"} and "rollout/prompts_right" not in found.metrics


def test_references_are_no_attempts():
    rollouts = completions(EXAMPLES[0])
    reference = replace(rollout_of(EXAMPLES[1].id, 0, EXAMPLES[1].answer, [], [5] * 3), source="reference")
    found, reasons = graded([*rollouts, reference], **SHORTEST)
    assert kept(reasons) == sorted([(EXAMPLES[0].id, 1), (EXAMPLES[1].id, 0)]) and found.num_kept == 2


@pytest.mark.parametrize("name", KEPT)
def test_a_group_gives_a_reason_for_each(name):
    """Any group: as many reasons as completions, and at most one is kept unless all are."""
    generator = random.Random(0)
    for _ in range(200):
        size = generator.randint(1, 6)
        group = [
            Candidate("x", sample, generator.choice([True, False, None]), generator.randint(1, 4)) for sample in range(size)
        ]
        reasons = KEPT[name](group, 3)
        assert len(reasons) == size and reasons.count("") <= (size if name == "all" else 1)
        if name == "shortest_right":
            shortest = min((c.num_tokens for c in group if c.correct), default=None)
            chosen = [c for c, reason in zip(group, reasons, strict=True) if not reason]
            assert [(c.correct, c.num_tokens) for c in chosen] == ([] if shortest is None else [(True, shortest)])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"filter": {"keep_per_prompt": "shortest_right", "route": "incorrect_only"}}, "none would be left"),
        (
            {
                "filter": {"keep_per_prompt": "shortest_right"},
                "teacher": {"context": "sibling_success", "only_unsuccessful": True},
                "rollout": {"group_size": 4},
            },
            "only right completions are trained on.*no sibling_success",
        ),
        (
            {
                "filter": {"route": "correct_only"},
                "teacher": {"context": "other_attempt", "only_unsuccessful": True},
                "rollout": {"group_size": 4},
            },
            "filter.route=correct_only.*no other_attempt",
        ),
    ],
    ids=["wrong ones", "no context", "route"],
)
def test_choices_that_leave_nothing_are_refused(overrides, said):
    with pytest.raises(ConfigError, match=said):
        resolve("tiny", overrides)


def test_without_answers_nothing_is_right():
    unlabelled = {"data": {"source": "rows.jsonl", "columns": {"answer": ""}}, "promotion": {"mode": "manual"}}
    context = {"teacher": {"context": "majority"}, "rollout": {"group_size": 4}}
    with pytest.raises(ConfigError, match=r"filter.keep_per_prompt=shortest_right need the right answer"):
        resolve("base", unlabelled, context, SHORTEST, {"model": {"source": "a/b"}})
    resolve("base", unlabelled, context, RANDOM, {"model": {"source": "a/b"}})


def test_own_right_samples_may_be_learned_from_without_a_teacher():
    own = {"distillation": {"divergence": "cross_entropy"}}
    resolve("tiny", own, SHORTEST)
    with pytest.raises(ConfigError, match="all of them"):
        resolve("tiny", own, RANDOM)
