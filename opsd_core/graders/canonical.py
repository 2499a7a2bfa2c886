"""One string per answer, so that votes and maj@k can count equal answers without a label."""

import re

from opsd_core.graders.notation import latex_text, unwrap_text
from opsd_core.graders.numbers import canonical_number, pick_number, read_number

MAX_ANSWER_CHARS = 1000
"""A final answer is short; longer ones are compared by their end."""
_BASE = re.compile(r"([0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)\s*_\s*\{?\s*\(?(\w+)\)?\s*\}?")
_BASE_WORDS = re.compile(r"([0-9A-Za-z]+)\s*\(?\s*(?:in\s+)?base[\s-]+(\w+)\s*\)?", re.IGNORECASE)
_BASE_NAMES = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16",
}  # fmt: skip
_UNIT = re.compile(
    r"(?<=[\w}\)])(?:\\[,;: !]|~|\s)*\\(?:text|mathrm|mbox|textrm)\s*\{([^{}]*)\}(?:\s*\^\s*\{?\d\}?)?\s*$"
)
_ASSIGNED = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*=\s*([^=<>]+)$")
_WORD = re.compile(r"[A-Za-z]{2,}")


def based_number(text: str) -> tuple[str, int] | None:
    """Digits and base of a number that names its base: "1011_{2}", "413 in base 5"; else None."""
    text = re.sub(r"\s+", " ", unwrap_text(text.replace("$", "").replace("\\(", "").replace("\\)", ""))).strip(" .")
    match = _BASE.fullmatch(text) or _BASE_WORDS.fullmatch(text)
    if match is None:
        return None
    base = _BASE_NAMES.get(match[2].lower(), match[2])
    if not base.isdigit() or not 2 <= int(base) <= 36 or not (match[1][0].isdigit() or int(base) > 10):
        return None
    return match[1].upper().lstrip("0") or "0", int(base)


def without_unit(text: str) -> str:
    r"""`text` without a unit at its end: "9\pi\text{ cm}^2" is "9\pi"."""
    match = _UNIT.search(text)
    if match is None or re.search(r"\d|\band\b|\bor\b|\\pi", match[1]):
        return text
    return text[: match.start()].strip()


def canonical_answer(answer: str) -> str:
    """Equal numbers as one string; expressions without the accidents of their notation; words case folded."""
    if based := based_number(answer):
        return f"{based[0]}_{based[1]}"
    number = pick_number(answer)
    value = read_number(number) if number else None
    if value is not None:
        return canonical_number(value)
    text = latex_text(without_unit(answer[-MAX_ANSWER_CHARS:]))
    if not re.search(r"\\(?!text|math|mbox)|[\d^_=<>+]", text):
        return " ".join(unwrap_text(text).casefold().strip(" .()*_`\"'").split())
    text = unwrap_text(re.sub(r"\\[,;: !]|\\q?quad|~", " ", text))
    if (assigned := _ASSIGNED.fullmatch(text.strip())) and "," not in assigned[1]:
        text = assigned[1]
    text = re.sub(r"\\(?:[a-zA-Z]+)", lambda m: m.group() + " ", text)
    text = re.sub(r"([\^_])\s*\{\s*(\w)\s*\}", r"\1\2", text)
    text = re.sub(r"\{\s*(\w)\s*\}", r" \1 ", text)
    return re.sub(r"\s+", "", text).casefold().strip(".")
