"""`numeric`: the number that the text marks as its answer, else the last number."""

from opsd_core.graders.extraction import find_answer, pick_number
from opsd_core.graders.numbers import canonical_number, find_numbers, parse_number, read_number, same_number
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
    """The number meant by the marked answer; the last number when nothing is marked or the mark holds none."""
    answer = find_answer(text, numeric=True)
    if answer is None:
        return None
    if number := pick_number(answer.text):
        return number
    numbers = find_numbers(text[-20_000:])
    return numbers[-1] if numbers else None
