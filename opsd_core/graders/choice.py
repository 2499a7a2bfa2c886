"""`choice`: a letter A to E."""

import re

from opsd_core.graders.extraction import MAX_CHARS, marked_answer
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example

_ALONE = re.compile(r"^\W*([A-Ea-e])\W*$")
_LEADING = re.compile(r"^[\W_]*(?:(?:option|choice)\s+)?\(?([A-E])(?![\w'’])")
_LABELLED = re.compile(r"(?:\b(?:option|choice)\s+\(?([A-E])\b|\(([A-E])\)|(?<![\w'’])([A-E])(?=[).:]))")


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    return "" if find_letter(example.answer) else f"answer={example.answer!r:.60} is not a letter A to E"


def grade(example: Example, text: str) -> Grade:
    """The letters are equal."""
    gold, letter = find_letter(example.answer), find_letter(text)
    correct = letter is not None and letter == gold
    return Grade(correct, letter, float(correct))


def find_letter(text: str) -> str | None:
    """The chosen letter: the marked answer's, else a text that is one letter, else the last "(B)", "B." or "option B".

    A capital A inside a sentence is an article, not a choice, and does not count.
    """
    text = text[-MAX_CHARS:]
    for candidate in (marked_answer(text) or "", text):
        if match := _ALONE.match(candidate):
            return match.group(1).upper()
    if match := _LEADING.match(marked_answer(text) or ""):
        return match.group(1)
    if labelled := _LABELLED.findall(text):
        return next(letter for letter in labelled[-1] if letter)
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and (match := _ALONE.match(lines[-1])):
        return match.group(1).upper()
    return None
