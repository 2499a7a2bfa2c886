"""In which form an answer is written: integer, decimal, scientific, fraction, choice, text."""

import re
from fractions import Fraction

from opsd_core.graders.numbers import find_numbers, parse_number, read_number

_INTEGER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)")
_DECIMAL = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d*)\.\d+|[-+]?\d+\.")
_SCIENTIFIC = re.compile(
    r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+|\s*(?:[*x×·]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{?\(?[-+]?\d+\)?\}?)"
)
_FRACTION = re.compile(r"[-+]?(?:\d+\s+)?\d+\s*/\s*\d+|[-+]?\d*\s*\\[dt]?frac\s*\{?[^{}]+\}?\s*\{?[^{}]+\}?")
_CHOICE = re.compile(r"[(\[]?\s*[A-Z]\s*[)\].:]?|[(\[]\s*[a-z]\s*[)\]]")
_AROUND = re.compile(r"^(?:\\[(\[]|[$€£¥\s])+|(?:\\[)\]]|[$€£¥%\s]|\\%)+$")
_FORMS = (
    ("choice", _CHOICE),
    ("integer", _INTEGER),
    ("scientific", _SCIENTIFIC),
    ("decimal", _DECIMAL),
    ("fraction", _FRACTION),
)
_MAX_CHARS = 200
_NEAR = Fraction(1, 10**9)
"""Relative distance within which two numbers are the same; 5.299589999999999e+02 is 529.959 written by a float."""


def answer_form(text: str) -> str:
    """The form of one answer; "none" for an empty one, "text" for what is no number and no letter of a choice."""
    bare = _AROUND.sub("", text.strip()[:_MAX_CHARS]).strip()
    if not bare:
        return "text" if text.strip() else "none"
    return next((name for name, pattern in _FORMS if pattern.fullmatch(bare)), "text")


def form_in_question(question: str, answer: str) -> str:
    """The form in which the question itself writes the answer's number; "not in it" where it does not.

    A task that asks to pick, copy or sort numbers shows the answer in its question, perhaps in another notation.
    """
    value = parse_number(answer)
    if value is None:
        return "not in it"
    for number in find_numbers(question[:20_000]):
        found = read_number(number)
        if found is not None and abs(found - value) <= _NEAR * abs(value):
            return answer_form(number)
    return "not in it"
