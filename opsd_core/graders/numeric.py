"""`numeric`: the number that the text marks as its answer, else the last number."""

from opsd_core.graders.extraction import find_answer
from opsd_core.graders.numbers import canonical_number, parse_number, pick_number, read_number, same_number
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    return "" if parse_number(example.answer) is not None else f"answer={example.answer!r:.60} is not one number"


def grade(example: Example, text: str) -> Grade:
    """Equal as exact fractions, or within one millionth when one of them is not whole; units are ignored."""
    gold = parse_number(example.answer)
    number = final_number(text)
    value = read_number(number) if number else None
    if gold is None or value is None:
        return Grade(False, None, 0.0)
    correct = same_number(gold, value)
    return Grade(correct, canonical_number(value), float(correct))


def final_number(text: str) -> str | None:
    """The number meant by the marked answer, the last number when nothing is marked; None when none is meant.

    An expression, a list or a choice between numbers means none: "2^3", "1, 2, 3", "3 or 4".
    """
    answer = find_answer(text, numeric=True)
    return pick_number(answer.text) if answer else None
