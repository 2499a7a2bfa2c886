"""`instruction`: the text obeys the demand that the item's answer names."""

import json

from opsd_core.data.suites.instructions import DEMANDS
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    known = ", ".join(DEMANDS)
    return "" if example.answer in DEMANDS else f"answer={example.answer!r:.60} is no demand that a program checks ({known})"


def grade(example: Example, text: str) -> Grade:
    """Whether the text, without white space around it, obeys; an empty one never does."""
    text = text.strip()
    obeys = bool(text) and DEMANDS[example.answer][1](text)
    return Grade(correct=obeys, extracted=json.dumps(text)[:80] if text else None, score=float(obeys))
