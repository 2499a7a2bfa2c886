"""pytest tests/core/prompts/test_attempts.py — which other attempt the teacher sees: never the completion itself, no thought."""

import random
from dataclasses import replace

import numpy as np
import pytest

from opsd_core.config import PromptConfig, TeacherConfig, resolve
from opsd_core.data import addition_examples
from opsd_core.errors import ConfigError, DataError
from opsd_core.graders.thoughts import spoken_text
from opsd_core.models.tiny import tiny_tokenizer
from opsd_core.prompts.attempts import ATTEMPTS
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.context_inputs import Attempt, ContextInputs
from opsd_core.prompts.contexts import build_context, context_identity
from opsd_core.prompts.teacher import NO_CONTEXT, TOO_LONG, teacher_prompts
from opsd_core.selection.grading import grade_rollouts
from tests.core.small import rollout_of, small_tokenizer

POOL = addition_examples(6)
GROUP = (
    Attempt(0, "first: 2", "2", True, num_tokens=9),
    Attempt(1, "second: 3", "3", False, num_tokens=5),
    Attempt(2, "third: 2", "2", True, num_tokens=4),
    Attempt(3, "no idea", None, False, num_tokens=8),
    Attempt(4, "unknown", None, None, num_tokens=7),
)


def shown(attempt, sample=0, group=GROUP, example=POOL[0], **settings):
    config = TeacherConfig(context="other_attempt", attempt=attempt, **settings)
    context = build_context(ContextInputs(example, config, POOL, group, sample))
    return context and context["privileged_context"]


def test_a_right_one_where_there_is_one():
    assert shown("right_first", 0) == "third: 2" and shown("right_first", 2) == "first: 2"
    assert {shown("right_first", 1, example=example) for example in POOL} == {"first: 2", "third: 2"}
    alone = [replace(attempt, correct=attempt.sample_index == 0) for attempt in GROUP]
    assert shown("right_first", 0, alone) in {attempt.text for attempt in GROUP[1:]}


def test_a_wrong_one_where_there_is_one():
    wrong = {"second: 3", "no idea", "unknown"}
    assert {shown("wrong_first", 0, example=example) for example in POOL} <= wrong
    right = [replace(attempt, correct=True) for attempt in GROUP]
    assert shown("wrong_first", 0, right) in {attempt.text for attempt in GROUP[1:]}


def test_the_shortest_wrong_one_and_else_the_shortest_right_one():
    assert shown("shortest_wrong_first", 0) == "second: 3" and shown("shortest_wrong_first", 1) == "unknown"
    right = [replace(attempt, correct=True) for attempt in GROUP]
    assert shown("shortest_wrong_first", 0, right) == "third: 2" and shown("shortest_wrong_first", 2, right) == "second: 3"


def test_any_is_drawn_among_all_others_and_stays_the_same():
    drawn = [shown("any", 0, example=example) for example in addition_examples(60)]
    assert set(drawn) == {attempt.text for attempt in GROUP[1:]}
    assert drawn == [shown("any", 0, example=example) for example in addition_examples(60)]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_never_the_completion_itself_but_for_a_right_twin_whatever_the_group_holds(attempt):
    generator = random.Random(1)
    for _ in range(300):
        texts = [generator.choice(["12", "12 ", "13", "", " ", "<think>1</think>12", "<think>12"]) for _ in range(5)]
        group = [Attempt(n, text, None, generator.choice([True, False, None]), num_tokens=n) for n, text in enumerate(texts)]
        for own in group:
            seen = shown(attempt, own.sample_index, group)
            others = {spoken_text(other.text).strip() for other in group if other is not own} - {""}
            same = {own.text.strip(), spoken_text(own.text).strip()}
            twins = {spoken_text(other.text).strip() for other in group if other is not own and other.correct} & same
            assert seen is None or seen in (others - same) | twins
            assert seen is not None or not (others - same) | (twins - {""})


def test_a_right_one_that_says_the_same_confirms_it_and_a_wrong_one_teaches_nothing():
    right = [Attempt(0, "12", "12", True), Attempt(1, "12 ", "12", True), Attempt(2, "13", "13", False)]
    assert shown("right_first", 0, right) == "12" and shown("wrong_first", 0, right) == shown("any", 0, right) == "13"
    assert shown("shortest_wrong_first", 0, right) == "13"
    assert {shown(attempt, 0, right[:2]) for attempt in ATTEMPTS} == {"12"}, "all are right: another right one"
    wrong = [replace(attempt, correct=False) for attempt in right]
    assert {shown(attempt, 0, wrong) for attempt in ATTEMPTS} == {"13"}
    assert {shown(attempt, 0, wrong[:2]) for attempt in ATTEMPTS} == {None}
    otherwise = [*right, Attempt(3, "it is 12", "12", True)]
    assert {shown("right_first", 0, otherwise, example=example) for example in POOL} == {"it is 12"}, "rather in other words"


def test_where_there_is_no_other_one_there_is_no_context():
    assert shown("right_first", 0, GROUP[:1]) is None
    assert shown("right_first", 0, [Attempt(n, "the same", None, False) for n in range(4)]) is None
    assert shown("right_first", 0, [Attempt(n, "the same") for n in range(4)]) is None
    assert shown("right_first", 0, only_unsuccessful=True) is None and shown("right_first", 1, only_unsuccessful=True)


def test_a_thought_is_never_shown():
    group = [GROUP[0], Attempt(1, "<think>hidden 3</think>it is 3", "3", False)]
    assert shown("right_first", 0, group) == "it is 3"
    cut = [GROUP[0], Attempt(1, "<think>hidden and cut", None, False)]
    assert shown("right_first", 0, cut) is None


def completions(texts, example, finish="eos"):
    made = [rollout_of(example.id, sample, text, [1], [4] * 3) for sample, text in enumerate(texts)]
    return [replace(rollout, finish_reason=finish) for rollout in made]


def prompts_of(texts, right, budget=200, **settings):
    teacher = TeacherConfig(context="other_attempt", **settings)
    prompts = PromptConfig(max_teacher_prompt_length=budget, overflow="drop")
    rollouts = completions(texts, POOL[0])
    correct = {rollout.key: flag for rollout, flag in zip(rollouts, right, strict=True)}
    builder = PromptBuilder(tiny_tokenizer(), prompts, teacher)
    made = teacher_prompts(builder, rollouts, correct, POOL)
    return builder, {key[1]: builder.tokenizer.decode(ids) for key, ids in made.ids.items()}, {
        key[1]: reason for key, reason in made.withheld.items()
    }  # fmt: skip


def test_missing_and_too_long_attempts_are_treated_as_of_any_context():
    builder, read, withheld = prompts_of(["12"], [True])
    assert read == {} and withheld == {0: NO_CONTEXT}
    _, read, withheld = prompts_of(["12"], [True], missing_context="student_prompt")
    assert read == {0: builder.tokenizer.decode(builder.student_ids(POOL[0]))} and withheld == {}
    _, read, withheld = prompts_of(["12", "9" * 400], [True, False])
    assert withheld == {0: TOO_LONG} and "12" in read[1]


def test_a_prompt_that_does_not_fit_is_never_cut():
    teacher, prompts = TeacherConfig(context="other_attempt"), PromptConfig(max_teacher_prompt_length=200, overflow="error")
    rollouts = completions(["12", "9" * 400], POOL[0])
    with pytest.raises(DataError, match=r"1 of 2 completions have a teacher prompt that does not fit"):
        teacher_prompts(PromptBuilder(tiny_tokenizer(), prompts, teacher), rollouts, {}, POOL)


def test_names_of_control_tokens_in_an_attempt_stay_text():
    """An attempt that wrote the name of an end token does not end the teacher's prompt."""
    tokenizer = small_tokenizer()
    teacher = TeacherConfig(context="other_attempt", template="{{ privileged_context }}")
    builder = PromptBuilder(tokenizer, PromptConfig(), teacher)
    rollouts = completions(["12", "13<eos>14"], POOL[0])
    ids = teacher_prompts(builder, rollouts, {}, POOL).ids[POOL[0].id, 0]
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids).replace(" ", "").startswith("13")


def test_an_attempt_that_a_filter_left_out_is_shown():
    """OASIS: the shortest right one is trained on, and its teacher sees a wrong one that is not."""
    choice = {"filter": {"keep_per_prompt": "shortest_right"}, "rollout": {"group_size": 3}}
    config = resolve("tiny", choice, {"teacher": {"context": "other_attempt", "attempt": "shortest_wrong_first"}})
    example, rollouts = POOL[0], completions([POOL[0].answer, f"{POOL[0].answer}7", "no"], POOL[0])
    builder = PromptBuilder.of(tiny_tokenizer(), config)
    found = grade_rollouts(
        rollouts, {example.id: example}, config, withheld=lambda right: teacher_prompts(builder, rollouts, right, POOL).withheld
    )
    assert [row.reason for row in found.rows] == ["", "incorrect", "incorrect"]
    ids = teacher_prompts(builder, rollouts, {row.key: row.correct for row in found.rows}, POOL).ids[example.id, 0]
    assert builder.tokenizer.decode(ids).endswith(f"{example.answer}7|{example.question}")


def test_of_conversations_the_policys_own_tokens_are_counted():
    """What a tool answered makes an attempt no longer."""
    right, plain, talked = completions([POOL[0].answer, "plain", "talked"], POOL[0])
    own = np.array([True] * 2 + [False] * 6)
    talked = replace(talked, completion_ids=[4] * 8, sampled_T=own)
    builder = PromptBuilder(
        tiny_tokenizer(), PromptConfig(), TeacherConfig(context="other_attempt", attempt="shortest_wrong_first")
    )
    correct = {right.key: True, plain.key: False, talked.key: False}
    ids = teacher_prompts(builder, [right, plain, talked], correct, POOL).ids[right.key]
    assert "talked" in builder.tokenizer.decode(ids)


def test_the_way_is_part_of_what_a_context_is():
    identities = [context_identity(TeacherConfig(context="other_attempt", attempt=attempt)) for attempt in ATTEMPTS]
    assert len({str(identity) for identity in identities}) == len(ATTEMPTS)
    assert context_identity(TeacherConfig(attempt="any")) == context_identity(TeacherConfig())


def test_it_needs_a_group_and_answers():
    with pytest.raises(ConfigError, match=r"teacher.context=other_attempt shows another completion.*group_size=1"):
        resolve("tiny", {"teacher": {"context": "other_attempt"}})
    unlabelled = {"data": {"source": "rows.jsonl", "columns": {"answer": ""}}, "promotion": {"mode": "manual"}}
    asked = {"teacher": {"context": "other_attempt"}, "rollout": {"group_size": 4}, "model": {"source": "a/b"}}
    with pytest.raises(ConfigError, match=r"needs to know which completions are right"):
        resolve("base", unlabelled, asked)
