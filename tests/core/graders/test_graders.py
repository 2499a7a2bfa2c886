"""Graders: what a model writes is judged fairly, in any thread, and hostile text costs seconds at most."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest

from opsd_core.config import DataConfig
from opsd_core.data import load_examples, make_example
from opsd_core.errors import ConfigError, DataError
from opsd_core.graders import GRADERS, Grade, check_gradable, get_grader, grader_name
from opsd_core.graders.agreement import final_answer
from opsd_core.graders.extraction import find_answer, last_boxed, pick_number
from opsd_core.graders.isolation import IsolatedVerifiers
from opsd_core.graders.numbers import find_numbers, parse_number, same_number


def grade(name: str, gold: str, text: str) -> Grade:
    return get_grader(name)(make_example("question", gold), text)


@pytest.mark.parametrize(
    ("gold", "text", "correct"),
    [
        ("12", "The answer is 12.", True),
        ("46", "The answer to 12 + 34 is 46.", True),
        ("46", "The answer is 12 + 34 = 46", True),
        ("46", "46 is my answer", True),
        ("46", "The answer is 46 because 40 + 5 is 45", True),
        ("46", "First 46, then 47", False),
        ("1234", "It costs $1,234.00.", True),
        ("1,234", "#### 1234", True),
        ("-7", "So the result is \u22127", True),
        ("5", "12-7=5", True),
        ("-5", "12-5", False),
        ("5", "5%", True),
        ("0.5", r"\boxed{\frac{1}{2}}", True),
        ("1/3", "0.3333333333", True),
        ("1/3", "0.33", False),
        ("1.5", "1 1/2 cups", True),
        ("12345678", "12345679", False),
        ("0", "", False),
        ("3", "There are three.", False),
        ("3", "1e999999999", False),
        ("3", "1/0", False),
    ],
)
def test_numeric(gold, text, correct):
    assert grade("numeric", gold, text).correct is correct


def test_equal_numbers_are_one_answer_to_a_majority_vote():
    texts = ["0.50", "1/2", r"\frac{1}{2}", "The answer is .5"]
    assert {grade("numeric", "7", text).extracted for text in texts} == {"1/2"}
    assert {grade("math", "7", text).extracted for text in ["12", "12.0", "$12$", "The answer is 12."]} == {"12"}


@pytest.mark.parametrize(
    ("gold", "text", "correct"),
    [
        ("640", "640", True),
        ("640", "64", False),
        ("640", "6400", False),
        ("640", " 640\n", True),
        ("Paris", "paris.", True),
        ("Paris", "The answer is **Paris**.", True),
        ("Paris", "Paris or London", False),
        ("", "", False),
    ],
)
def test_exact(gold, text, correct):
    assert grade("exact", gold, text).correct is correct


@pytest.mark.parametrize(
    ("gold", "text", "letter"),
    [
        ("B", "The answer is (B).", "B"),
        ("B", "b", "B"),
        ("(B)", r"\boxed{B}", "B"),
        ("B", "A dog is an animal, so option B", "B"),
        ("B", "A) no\nB) yes\n\nB", "B"),
        ("B", "The answer is B because A) is wrong.", "B"),
        ("C", "The correct answer is C: a cat", "C"),
        ("A", "A dog barked.", None),
        ("A", "", None),
    ],
)
def test_choice(gold, text, letter):
    result = grade("choice", gold, text)
    assert (result.extracted, result.correct) == (letter, letter is not None)


@pytest.mark.parametrize(
    ("gold", "text", "correct"),
    [
        ("72", "She sold 72 clips.", True),
        ("72", "She sold 73 clips.", False),
        (r"\frac{1}{2}", r"Thus \boxed{0.5}", True),
        (r"\frac{\sqrt{3}}{2}", r"\boxed{\frac{\sqrt 3}{2}}", True),
        (r"2\sqrt{2}", r"The answer is $\sqrt{8}$.", True),
        (r"2\sqrt{2}", r"The answer is $\sqrt{6}$.", False),
        ("x^2+2x+1", r"\boxed{(x+1)^2}", True),
        ("8", r"The answer is $2^{3}$.", True),
        ("2", r"The answer is $2^{3}$.", False),
        ("8", "The answer is 8x", False),
        ("(1, 2)", r"\boxed{(1,2)}", True),
        ("(1, 2)", r"\boxed{(2,1)}", False),
        ("5", r"\boxed{x = 5}", True),
        ("Monday", "The answer is Monday.", True),
        ("Monday", "The answer is Friday.", False),
        ("12", "", False),
    ],
)
def test_math(gold, text, correct):
    result = grade("math", gold, text)
    assert (result.correct, result.note) == (correct, "")


def in_thread(function):
    result: list = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join(60)
    return result[0]


@pytest.mark.parametrize("name", sorted(GRADERS))
def test_graders_judge_in_a_thread_as_in_the_main_thread(name, tmp_path):
    example = make_example("question", "B" if name == "choice" else r"\frac{6}{2}" if name == "math" else "3")
    if name == "reasoning_gym":
        example = gym_examples("gcd")[0]
    if name == "instruction":
        example = make_example("question", "no_comma")
    right = f"The answer is {example.answer}."
    if name == "unit_tests":
        example, right = make_example("question", "assert f(2) == 3"), "```python\ndef f(x):\n    return x + 1\n```"
    if name == "math":
        right = r"The answer is $\sqrt{9}$."
    if name == "python":
        (tmp_path / "mine.py").write_text("def judge(text, item):\n    return item['answer'] in text\n")
        name = f"python:{tmp_path / 'mine.py'}:judge"
    judge = get_grader(name)
    assert in_thread(lambda: judge(example, right)) == judge(example, right)
    assert judge(example, right).correct and not in_thread(lambda: judge(example, "no idea")).correct


def test_many_threads_share_one_verifier_process():
    examples = gym_examples("gcd")[:8]
    judge = get_grader("reasoning_gym")
    with ThreadPoolExecutor(8) as pool:
        grades = list(pool.map(lambda i: judge(examples[i % 8], examples[(i + i // 8) % 8].answer), range(64)))
    for i, result in enumerate(grades):
        assert result.correct == (examples[i % 8].answer == examples[(i + i // 8) % 8].answer) and result.note == ""


def test_text_that_never_ends_in_sympy_is_wrong_within_seconds_and_the_next_is_right():
    start = time.monotonic()
    result = grade("math", "7", r"\boxed{9^{9^{9^{9^{9}}}}}")
    assert not result.correct and time.monotonic() - start < 60
    assert grade("math", r"2\sqrt{2}", r"\boxed{\sqrt{8}}").correct


def test_a_verdict_that_an_interrupt_left_unread_goes_to_no_other_completion():
    assert grade("math", r"2\sqrt{2}", r"\boxed{\sqrt{8}}").correct
    main, before = threading.main_thread(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.5, lambda: signal.pthread_kill(main.ident, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            grade("math", "7", r"\boxed{9^{9^{9^{9^{9}}}}}")
    finally:
        signal.signal(signal.SIGINT, before)
    for _ in range(3):
        assert grade("math", r"2\sqrt{2}", r"\boxed{\sqrt{8}}").correct
        assert not grade("math", r"2\sqrt{2}", r"\boxed{\sqrt{7}}").correct


def test_the_verifiers_process_knows_no_password(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    verifiers = IsolatedVerifiers()
    assert verifiers.call("verify_math", gold=r"2\sqrt{2}", answer=r"\sqrt{8}")
    assert b"planted" not in Path(f"/proc/{verifiers._child._process.pid}/environ").read_bytes()
    verifiers.close()


@pytest.mark.parametrize("name", ["math", "numeric", "exact", "choice", "vote"])
@pytest.mark.parametrize(
    "unit",
    [
        "\\(",
        "$",
        "$x$ ",
        "\\text{",
        "\\frac{",
        "*a",
        "**",
        "A is ",
        "not A ",
        "A, ",
        "A or ",
        "<think>",
        "</think>",
        "1 and ",
        "x=1,",
        "x = ",
        "10^",
        "2 x 10^{",
        "^{",
        "{",
        "}",
        "####\n",
        "√",
        "½",
        "²",
        "1:",
        "5 feet ",
        "minus ",
        "\\boxed{1}, ",
        "9^",
        "1,000",
        "\\sqrt{",
        "\\left(",
        "answer not ",
        "is ",
        "\n",
        "#### 1\n$$\n",
        "answer ",
        "answer is ",
        r"\boxed{",
        "<answer>",
        "1,",
        "1 ",
        "1/",
        "-",
        "9",
        "#### ",
        "(A",
        "\ud800",
        "\x00",
        "=",
    ],
)
def test_long_hostile_text_is_judged_quickly(name, unit):
    text = unit * (200_000 // len(unit))
    if name == "math":
        grade("math", "x", r"\boxed{x + 1}")  # the verifier's process starts once; that is not the text's time
    start = time.monotonic()
    if name == "vote":
        final_answer(text)
    else:
        assert not grade(name, "J" if name == "choice" else "17", text).correct
    assert time.monotonic() - start < (20 if name == "math" else 6)


def gym_examples(task: str, size: int = 12, **options):
    config = DataConfig(source=f"reasoning_gym:{task}", options=options, size=size, validation_fraction=0.4)
    data = load_examples(config)
    return data.train + data.validation + data.test


PHRASES = ["{}", "The answer is {}.", r"\boxed{{{}}}", "<answer>{}</answer>"]
NUMBER_TASKS = ["chain_sum", "letter_counting", "gcd", "products"]


@pytest.mark.parametrize(
    ("task", "phrase"),
    [(task, phrase) for task in NUMBER_TASKS for phrase in [*PHRASES, "So we get **{}**"]]
    + [("family_relationships", phrase) for phrase in PHRASES],
)
def test_reasoning_gym_judges_what_models_write(task, phrase):
    for example in gym_examples(task)[:4]:
        result = get_grader("reasoning_gym")(example, phrase.format(example.answer))
        assert result.correct and result.score >= 0.99, (example.answer, result)
        wrong = get_grader("reasoning_gym")(example, phrase.format("31337"))
        assert not wrong.correct and wrong.note == ""


def test_reasoning_gym_takes_answers_of_several_lines():
    for example in gym_examples("binary_matrix", size=10)[:4]:
        judge = get_grader("reasoning_gym")
        assert judge(example, example.answer).correct
        assert judge(example, "The answer is:\n" + example.answer).correct
        assert not judge(example, example.answer.splitlines()[0]).correct


def test_auto_and_unknown_names():
    assert grader_name(DataConfig(source="reasoning_gym:gcd")) == "reasoning_gym"
    assert grader_name(DataConfig(source="some/data")) == "math"
    assert grader_name(DataConfig(source="some/data", grader="choice")) == "choice"
    with pytest.raises(ConfigError, match=r"'maths' does not exist. Available: auto, choice, exact, instruction, math"):
        get_grader("maths")
    with pytest.raises(ConfigError, match="'auto' depends on the data"):
        get_grader("auto")
    sums = get_grader(DataConfig(source="tiny:addition"))
    assert sums(make_example("1+1", "2"), "2").correct and not sums(make_example("1+1", "2"), "3").correct


@pytest.mark.parametrize(
    ("name", "gold", "reason"),
    [("numeric", "Paris", "is not one number"), ("choice", "seven", "is not a letter"), ("math", "", "is empty"),
     ("exact", "", "is empty"), ("reasoning_gym", "3", "does not come from a reasoning_gym source")],
)  # fmt: skip
def test_labels_that_a_grader_cannot_use_are_found_beforehand(name, gold, reason):
    with pytest.raises(DataError, match=f"cannot judge 1 of 1 items.*{reason}"):
        check_gradable([make_example("question", gold)], name)
    check_gradable([], name)


def test_extraction_prefers_what_the_text_marks():
    assert find_answer(r"The answer is 3. \boxed{4}", numeric=True).text == "4"
    assert last_boxed(r"\boxed{1} then \boxed{\frac{1}{2}} end}") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{open") is None
    assert find_answer("Answer:\n12\nmore", numeric=True).text == "12"
    assert find_answer("the answer is", numeric=True) is None
    assert pick_number("12 + 34 = 46 apples") == "46"


def test_numbers_are_read_exactly():
    assert find_numbers("a 1,234.5 b -3 c 12-5 d 2/3") == ["1,234.5", "-3", "12", "5", "2/3"]
    assert parse_number("-1 1/2") == Fraction(-3, 2)
    assert parse_number("3 or 4") is None
    assert same_number(Fraction(1, 3), Fraction("0.3333333333")) and not same_number(
        Fraction(10**9), Fraction(10**9 + 1)
    )
