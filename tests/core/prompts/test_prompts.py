"""pytest tests/core/prompts/test_prompts.py — both sides' prompts, budgets, and text that looks like a template."""

import pytest

from opsd_core.config import PromptConfig, TeacherConfig
from opsd_core.data import make_example
from opsd_core.errors import ConfigError, DataError, ModelError
from opsd_core.models.policy import eos_ids
from opsd_core.prompts.builder import PromptBuilder, fitting_examples
from opsd_core.prompts.context_inputs import ContextInputs
from opsd_core.prompts.contexts import build_context
from tests.core.small import small_tokenizer

TEACHER = TeacherConfig(template="{{ privileged_context }}|{{ question }}")
POOL = [make_example("1+1=", answer="2"), make_example("2+2=", answer="4"), make_example("3+3=", answer="6")]


def builder(**prompts):
    return PromptBuilder(small_tokenizer(), PromptConfig(**prompts), TEACHER)


def shown(example, context="reference"):
    return build_context(ContextInputs(example, TEACHER.model_copy(update={"context": context}), POOL))


def text(ids):
    return "".join(small_tokenizer().convert_ids_to_tokens(ids))


def test_teacher_sees_the_reference_and_the_student_does_not():
    example, sides = POOL[0], builder()
    assert text(sides.student_ids(example)) == "1+1="
    assert text(sides.teacher_ids(example, shown(example))) == "2|1+1="


def test_without_a_context_both_sides_are_the_same_ids():
    sides = builder()
    assert sides.teacher_ids(POOL[0], shown(POOL[0], "none")) == sides.student_ids(POOL[0])


def test_shuffled_reference_is_always_another_answer_and_always_the_same():
    for example in POOL:
        other = shown(example, "shuffled_reference")["privileged_context"]
        assert other != example.answer and other in {item.answer for item in POOL}
        assert other == shown(example, "shuffled_reference")["privileged_context"]


def test_user_text_is_never_a_template():
    example = make_example("{{ answer }} {% raw %}", answer="7")
    sides = PromptBuilder(small_tokenizer(), PromptConfig(student="q {{ question }}"), TEACHER)
    assert sides.tokenizer.decode(sides.student_ids(example)).startswith("q ")
    assert "7" not in sides.tokenizer.decode(sides.student_ids(example))


def test_a_template_cannot_reach_into_python():
    evil = "{{ question.__class__.__mro__ }}"
    with pytest.raises(ConfigError, match=r"prompts\.student.*cannot be rendered"):
        builder(student=evil).student_ids(POOL[0])


def test_unknown_variable_names_those_that_exist():
    with pytest.raises(ConfigError, match=r"prompts\.student.*Variables that exist: answer, question, solution"):
        builder(student="{{ problem }}").student_ids(POOL[0])


def test_too_long_prompts_are_counted_never_cut():
    limit = {"max_teacher_prompt_length": 6}
    long = make_example("3+4=", answer="777")
    contexts = lambda example: {"privileged_context": example.answer}  # noqa: E731
    with pytest.raises(DataError, match=r"1 of 4 items.*teacher prompt.*8 tokens.*max_teacher_prompt_length=6"):
        fitting_examples([*POOL, long], builder(**limit), contexts)
    fitting, dropped = fitting_examples([*POOL, long], builder(**limit, overflow="drop"), contexts)
    assert (fitting, dropped) == (POOL, [long.id])


def test_a_model_without_chat_template_is_refused():
    tokenizer = small_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"no chat template.*model\.chat_template"):
        PromptBuilder(tokenizer, PromptConfig(), TEACHER).student_ids(POOL[0])


def test_all_end_tokens_count_and_none_is_an_error():
    tokenizer = small_tokenizer()
    assert eos_ids(tokenizer, [5, 0]) == (0, 5)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end-of-sequence"):
        eos_ids(tokenizer, None)


def test_template_identities_follow_what_each_side_sees():
    one, other = builder(), PromptBuilder(small_tokenizer(), PromptConfig(), TeacherConfig(template="{{ question }}"))
    assert one.student_digest == other.student_digest and one.teacher_digest != other.teacher_digest
    assert builder(student="x {{ question }}").teacher_digest != one.teacher_digest
