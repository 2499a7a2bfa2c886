"""`math`: equal strings, else equal numbers, else math-verify in a process of its own."""

import re

from opsd_core.graders.extraction import find_answer, normalised, pick_number
from opsd_core.graders.isolation import VERIFIERS, VerifierError
from opsd_core.graders.numbers import canonical_number, parse_number, plain_text, read_number, same_number
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example

MAX_EXPRESSION_CHARS = 1000
"""A final answer is short; sympy's parser takes quadratic time and more."""
_EXPRESSION = re.compile(r"[\\^_√π{}()\[\]*+<>|]|\d[A-Za-z]")
"""Signs that a segment is more than a number with a unit."""


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    return "" if example.answer.strip() else "the answer is empty"


def grade(example: Example, text: str) -> Grade:
    """Equal as strings, as numbers, or as expressions (math-verify, gold first).

    When math-verify cannot read one of the two, numbers decide, else the strings. A verifier that fails or needs more
    than 5 seconds gives "wrong" with a note.
    """
    gold_number = parse_number(example.answer)
    answer = find_answer(text, numeric=gold_number is not None)
    if answer is None:
        return Grade(False, None, 0.0)
    if normalised(answer.text) == normalised(example.answer):
        return _judged(True, answer.text)
    plain = not _EXPRESSION.search(plain_text(answer.text)) and not _EXPRESSION.search(plain_text(example.answer))
    number = read_number(found) if (found := pick_number(answer.text)) else None
    if plain and gold_number is not None and number is not None:
        return _judged(same_number(gold_number, number), canonical_number(number))
    segment = answer.text[-MAX_EXPRESSION_CHARS:]
    try:
        verdict = VERIFIERS.call("verify_math", gold=example.answer, answer=segment, marked=answer.marked)
    except VerifierError as error:
        return Grade(False, _shown(answer.text), 0.0, f"math-verify: {error}")
    if verdict is None:
        verdict = gold_number is not None and number is not None and same_number(gold_number, number)
    return _judged(verdict, example.answer if verdict else answer.text)


def _judged(correct: bool, text: str) -> Grade:
    return Grade(correct, _shown(text), float(correct))


def _shown(text: str) -> str:
    """Equal numbers as one string, other answers normalised."""
    value = None if _EXPRESSION.search(plain_text(text)) else parse_number(text)
    return canonical_number(value) if value is not None else normalised(text)[:MAX_EXPRESSION_CHARS]
