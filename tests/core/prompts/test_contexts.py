"""pytest tests/core/prompts/test_contexts.py — what each context shows, to whom, and that the teacher's tokens hold it."""

import pytest

from opsd_core.config import PromptConfig, TeacherConfig
from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.data import make_example
from opsd_core.errors import DataError
from opsd_core.models.tiny import tiny_tokenizer
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.context_inputs import Attempt, ContextInputs
from opsd_core.prompts.contexts import CONTEXTS, beginning, build_context, context_identity
from opsd_core.prompts.teacher import NO_CONTEXT, TOO_LONG, TeacherPrompts, teacher_prompts
from tests.core.small import rollout_of

POOL = [make_example(f"{n}+{n}=", answer=str(2 * n), solution=f"Add {n} to {n}. That is {2 * n}.") for n in range(1, 6)]
GROUP = (
    Attempt(0, "first: 2", "2", True),
    Attempt(1, "second: 3", "3", False),
    Attempt(2, "third: 2", "2", True),
    Attempt(3, "no idea", None, False),
)
PEERS = (
    Attempt(0, "peer: 3", "3", False),
    Attempt(1, "peer: 2", "2", True),
    Attempt(2, "dunno", None, False),
    Attempt(3, " ", None, False),
    Attempt(4, "unlabelled"),
)


def show(context, sample=0, group=GROUP, example=POOL[0], peers=PEERS, **settings):
    return build_context(ContextInputs(example, TeacherConfig(context=context, **settings), POOL, group, sample, peers))


def test_every_name_has_a_function_and_a_kind():
    assert CONTEXTS.keys() == CONTEXT_KINDS.keys()


@pytest.mark.parametrize("context", [name for name in CONTEXTS if name != "none"])
def test_the_teachers_tokens_hold_the_context_and_the_students_do_not(context):
    settings = TeacherConfig(context=context, reference="solution", instruction="Be brief!" if context == "instruction" else "")
    builder = PromptBuilder(tiny_tokenizer(), PromptConfig(student="Q: {{ question }}"), settings)
    shown = build_context(ContextInputs(POOL[0], settings, POOL, GROUP, 1, PEERS))
    teacher = builder.tokenizer.decode(builder.teacher_ids(POOL[0], shown))
    student = builder.tokenizer.decode(builder.student_ids(POOL[0]))
    for value in shown.values():
        assert value in teacher or context == "majority"  # majority_answer is for templates that want it
    privileged = shown["privileged_context"]  # empty where the teacher only thinks
    assert privileged in teacher and (not privileged or privileged not in student)
    assert "Q: 1+1=" in teacher and student == "<s>Q: 1+1="


@pytest.mark.parametrize("context", ["reference", "demo"])
def test_own_reference(context):
    assert show(context)["privileged_context"] == "2"
    assert show(context, reference="solution")["privileged_context"] == "Add 1 to 1. That is 2."


def test_another_problem_is_never_the_item_itself_and_always_the_same():
    for example in POOL:
        shown = show("other_problem", example=example)
        assert shown["other_question"] != example.question
        assert (shown["other_question"], shown["privileged_context"]) in {(o.question, o.answer) for o in POOL}
        assert shown == show("other_problem", example=example)
    with pytest.raises(DataError, match="at least two different items"):
        build_context(ContextInputs(POOL[0], TeacherConfig(context="other_problem"), POOL[:1]))


@pytest.mark.parametrize(
    ("text", "fraction", "unit", "expected"),
    [
        ("one two  three four", 0.5, "word", "one two"),
        ("one two  three four", 0.75, "word", "one two  three"),
        ("one two three", 0.1, "word", "one"),
        ("201", 0.5, "word", "2"),
        ("201", 1.0, "word", "201"),
        ("Add. Then carry!\nDone.", 0.5, "sentence", "Add."),
        ("Add. Then carry!\nDone.", 0.7, "sentence", "Add. Then carry!"),
        ("only one sentence here", 0.5, "sentence", "only one"),
    ],
)
def test_beginnings_end_at_boundaries(text, fraction, unit, expected):
    assert beginning(text, fraction, unit) == expected


def test_partial_and_hint_show_less_than_everything():
    assert show("partial", reference="solution", context_fraction=0.5)["privileged_context"] == "Add 1 to"
    assert show("hint", reference="solution", context_fraction=0.5)["privileged_context"] == "Add 1 to 1."


def test_sibling_success_is_another_right_completion():
    assert show("sibling_success", 0)["privileged_context"] == "third: 2"
    assert show("sibling_success", 2)["privileged_context"] == "first: 2"
    assert show("sibling_success", 1)["privileged_context"] in ("first: 2", "third: 2")
    assert show("sibling_success", 0, only_unsuccessful=True) is None
    assert show("sibling_success", 0, group=GROUP[:2]) is None  # its own success is no sibling


def test_majority_needs_agreement_and_no_label():
    unlabelled = tuple(Attempt(a.sample_index, a.text, a.answer) for a in GROUP)
    assert show("majority", 1, unlabelled) == show("majority", 1)
    assert show("majority", 1)["majority_answer"] == "2"
    assert show("majority", 0)["privileged_context"] == "third: 2"
    assert show("majority", 0, only_unsuccessful=True) is None
    assert show("majority", 1, min_agreement=0.51) is None  # 2 of 4, an attempt without answer counts
    assert show("majority", 0, GROUP[:2]) is None  # a tie


def test_feedback_names_the_completions_own_answer():
    assert show("feedback", 0) == {"privileged_context": "Its answer 2 is right.", "attempt": "first: 2"}
    assert show("feedback", 1)["privileged_context"] == "Its answer 3 is wrong."
    assert show("feedback", 3)["privileged_context"] == "It states no final answer."
    assert show("feedback", 0, only_unsuccessful=True) is None
    assert show("feedback", 0, (Attempt(0, "2", "2"),)) is None


def test_a_peers_success_is_its_right_answer_or_nothing():
    assert {show("peer_success", sample)["privileged_context"] for sample in range(4)} == {"peer: 2"}
    assert show("peer_success", 1, peers=PEERS[:1]) is None and show("peer_success", 1, peers=()) is None
    assert show("peer_success", 0, only_unsuccessful=True) is None
    assert show("peer_success", 1, only_unsuccessful=True) == {"privileged_context": "peer: 2"}
    two, groups = (*PEERS, Attempt(5, "2!", "2", True)), [(Attempt(sample, "x"),) for sample in range(9)]
    shown = {show("peer_success", sample, group, peers=two)["privileged_context"] for sample, group in enumerate(groups)}
    assert shown == {"peer: 2", "2!"}


def test_a_peers_failure_is_shown_as_wrong_or_not_at_all():
    assert show("peer_failure", 1, peers=PEERS[:2]) == {"privileged_context": "Its answer 3 is wrong.", "attempt": "peer: 3"}
    assert show("peer_failure", 1, peers=PEERS[1:4]) == {"privileged_context": "It states no final answer.", "attempt": "dunno"}
    assert show("peer_failure", 1, peers=PEERS[1:2]) is None and show("peer_failure", 1, peers=PEERS[3:]) is None
    assert show("peer_failure", 0, only_unsuccessful=True) is None


def test_instruction_becomes_the_system_message():
    settings = TeacherConfig(context="instruction", instruction="Think twice.")
    builder = PromptBuilder(tiny_tokenizer(), PromptConfig(), settings)
    shown = build_context(ContextInputs(POOL[0], settings))
    assert builder.tokenizer.decode(builder.teacher_ids(POOL[0], shown)) == "<s>Think twice.1+1="


def test_identity_follows_what_is_shown():
    base = context_identity(TeacherConfig(context="partial"))
    assert context_identity(TeacherConfig(context="partial", min_agreement=0.9)) == base
    assert context_identity(TeacherConfig(context="partial", context_fraction=0.9)) != base
    grouped = context_identity(TeacherConfig(context="majority"))
    assert context_identity(TeacherConfig(context="majority", min_agreement=0.9)) != grouped


def prompts(context, rollouts, correct, limits=None, peers=None, **settings):
    builder = PromptBuilder(
        tiny_tokenizer(),
        PromptConfig(**(limits or {})),
        TeacherConfig(context=context, template="{{ privileged_context }}|{{ question }}", **settings),
    )
    return builder, teacher_prompts(builder, rollouts, correct, POOL, peers)


def test_each_completion_gets_its_own_prompt_or_a_reason():
    rollouts = [rollout_of(POOL[0].id, i, text) for i, text in enumerate(["2", "3", "answer is 2"])]
    rollouts += [rollout_of(POOL[1].id, 0, "9")]
    correct = {r.key: r.completion_text != "3" and r.example_id == POOL[0].id for r in rollouts}
    builder, made = prompts("sibling_success", rollouts, correct)
    texts = {key: builder.tokenizer.decode(ids) for key, ids in made.ids.items()}
    assert texts[POOL[0].id, 0] == "<s>answer is 2|1+1=" and texts[POOL[0].id, 2] == "<s>2|1+1="
    assert made.withheld == {(POOL[1].id, 0): NO_CONTEXT}
    builder, made = prompts("sibling_success", rollouts, correct, missing_context="student_prompt")
    assert not made.withheld
    assert made.ids[POOL[1].id, 0] == builder.student_ids(POOL[1])


def test_prompts_that_are_the_same_for_all_completions_are_built_once():
    rollouts = [rollout_of(example.id, i, "2") for example in POOL[:2] for i in range(2)]
    correct, known = {rollout.key: True for rollout in rollouts}, {}
    for context, kept in (("reference", {example.id for example in POOL[:2]}), ("feedback", set())):
        settings = TeacherConfig(context=context, template="{{ privileged_context }}|{{ question }}")
        builder = PromptBuilder(tiny_tokenizer(), PromptConfig(), settings)
        alone = teacher_prompts(builder, rollouts, correct, POOL)
        known.clear()
        assert teacher_prompts(builder, rollouts, correct, POOL, known=known) == alone and known.keys() == kept
        known.update({example_id: [7] for example_id in kept})
        again = teacher_prompts(builder, rollouts, correct, POOL, known=known)
        assert again == (TeacherPrompts(ids={key: [7] for key in alone.ids}) if kept else alone)


def test_a_peers_answer_reaches_the_completions_of_its_own_prompt_only():
    rollouts = [rollout_of(POOL[0].id, 0, "2"), rollout_of(POOL[1].id, 0, "4"), rollout_of(POOL[2].id, 0, "6")]
    peers = {POOL[0].id: [Attempt(0, "two is 2", "2", True)], POOL[1].id: [Attempt(0, "5", "5", False)]}
    builder, made = prompts("peer_success", rollouts, dict.fromkeys((r.key for r in rollouts), True), peers=peers)
    assert [*made.ids] == [(POOL[0].id, 0)] and builder.tokenizer.decode(made.ids[POOL[0].id, 0]) == "<s>two is 2|1+1="
    assert made.withheld == {r.key: NO_CONTEXT for r in rollouts[1:]}


def test_a_context_that_does_not_fit_is_an_error_or_a_reason_never_cut():
    rollouts = [rollout_of(POOL[0].id, 0, "2"), rollout_of(POOL[0].id, 1, "so 2 in the end")]
    correct = dict.fromkeys((r.key for r in rollouts), True)
    limits = {"max_teacher_prompt_length": 10}
    with pytest.raises(DataError, match=r"1 of 2 completions.*max_teacher_prompt_length=10"):
        prompts("sibling_success", rollouts, correct, limits)
    _, made = prompts("sibling_success", rollouts, correct, limits | {"overflow": "drop"})
    assert made.withheld == {(POOL[0].id, 0): TOO_LONG} and len(made.ids[POOL[0].id, 1]) <= 10
