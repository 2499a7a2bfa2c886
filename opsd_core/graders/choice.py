"""`choice`: a letter A to J."""

import re

from opsd_core.graders.extraction import answer_text, marked_answer
from opsd_core.graders.notation import unwrap_text
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example

_ALONE = re.compile(r"\W*([A-Ja-j])\W*")
_LETTER = r"\(?([A-J])(?![\w'’°^/]|\s*[=+<>])"
_NO_ARTICLE = re.compile(
    r"\s*(?:$|[).:,;!?\]}\n]|[-–—]\s|(?:is|was|because|since|as|which|for|due|by|would|must|and|or)\b)", re.IGNORECASE
)
"""What follows a letter A or I that is an answer; "A dog" and "I think" are none."""
_LEADING = re.compile(rf"[\W_]*(?:(?:the\s+)?(?:option|choice|letter|answer)\s+)?{_LETTER}", re.IGNORECASE | re.ASCII)
_HEDGE = re.compile(r"\)?\s*(?:,|/|&|\bor\b|\band\b)\s*(?:option\s+|choice\s+)?\(?([A-J])(?![\w'’])")
_DENIED = re.compile(
    r"(?:\bnot|n['’]t|\bneither|\bnor|\brather than|\binstead of)\s+(?:be\s+)?(?:option\s+|choice\s+)?\(?[A-J]\b\)?"
    r"|(?<![\w'’])\(?[A-J]\)?(?:\s*(?:,|and)\s*\(?[A-J]\)?){0,9}\s+(?:is|are|was|were|would be)\s+"
    r"(?:not|wrong|incorrect|false|too|also wrong|impossible|out|eliminated)\b"
)
_SAID = re.compile(
    r"(?:\b(?i:option|choice|letter|answer)\s*[-–:]?\s*"
    r"|(?:\b(?i:is|be|but|choose|pick|select|say|guess|with|think|believe|hence|thus|therefore|so)|\b[Ii]t['’]s),?:?\s+)"
    + _LETTER
)
_NAMED = re.compile(r"\b(?:option|choice)\s+\(?([b-hj])(?![\w'’])", re.IGNORECASE)
_RIGHT = re.compile(
    r"(?<![\w'’])"
    + _LETTER
    + r"\)?(?=\s+(?:is|must be|would be)\s+(?:the\s+)?(?:\w+\s+)?(?:correct|right|true|best|answer))"
)
_PRONOUN = re.compile(r"\s*(?:$|[).:;!?\]}\n]|is\b)")
_PUNCTUATED = re.compile(r"\s*(?:$|[).:,;\]}\n]|[-–—]\s)")
_BRACKETED = re.compile(r"\(([A-J])\)")
_OPTION_LINE = re.compile(r"^[^\w\n]{0,8}([A-J])[).:]", re.MULTILINE)


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    return "" if find_letter(example.answer) else f"answer={example.answer!r:.60} is not a letter A to J"


def grade(example: Example, text: str) -> Grade:
    """The letters are equal."""
    gold, letter = find_letter(example.answer), find_letter(text)
    correct = letter is not None and letter == gold
    return Grade(correct, letter, float(correct))


def find_letter(text: str) -> str | None:
    """The chosen letter: the marked answer's, else the text's own, else the last that the text calls its choice.

    "A" and "I" inside a sentence are words; letters that the text denies ("not B", "A is wrong") and choices between
    letters ("A or B") do not count.
    """
    text = answer_text(text)
    if marked := marked_answer(text):
        return _in_segment(marked) or (None if _hedged(_clean(marked)) else _in_text(_clean(text)))
    return _in_text(_clean(text))


def _clean(text: str) -> str:
    text = unwrap_text(text).replace("**", "").replace("__", "").replace("$", "").replace("`", "")
    return _DENIED.sub(" ", text).strip()


def _hedged(segment: str) -> bool:
    match = _LEADING.match(segment)
    return bool(match and (other := _HEDGE.match(segment, match.end())) and other[1] != match[1])


def _in_segment(segment: str) -> str | None:
    """The letter that a marked answer begins with, is, or says."""
    segment = _clean(segment)
    if match := _ALONE.fullmatch(segment):
        return match[1].upper()
    if _hedged(segment):
        return None
    match = _LEADING.match(segment)
    if match and _is_choice(match, segment):
        return match[1].upper()
    return _last(_SAID, segment) or _last(_RIGHT, segment) or _at_end(segment)


def _in_text(text: str) -> str | None:
    if match := _ALONE.fullmatch(text):
        return match[1].upper()
    if _hedged(text):
        return None
    if letter := _last(_SAID, text) or _last(_RIGHT, text):
        return letter
    if named := _NAMED.findall(text):
        return named[-1].upper()
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and (match := _ALONE.fullmatch(lines[-1])):
        return match[1].upper()
    options = _OPTION_LINE.findall(text)
    match = _LEADING.match(text)
    if match and len(options) <= 1 and _PUNCTUATED.match(text, match.end()) and _is_choice(match, text):
        return match[1].upper()
    bracketed = set(_BRACKETED.findall(text))
    if len(bracketed) == 1:
        return bracketed.pop()
    return _at_end(text)


def _at_end(text: str) -> str | None:
    match = re.search(r"[,:]\s*\(?([A-J])\)?[.!]?$", text)
    return match[1] if match else None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    letters = [match[1] for match in pattern.finditer(text) if _is_choice(match, text)]
    return letters[-1] if letters else None


def _is_choice(match: re.Match[str], text: str) -> bool:
    """Whether the matched letter is no article ("A dog"), pronoun ("I think") or part of a choice ("A or B")."""
    if match[1] not in "AI":
        return match[1].isupper() or "(" in match.group()
    follows = _NO_ARTICLE if match[1] == "A" else _PRONOUN
    return bool(follows.match(text, match.end()))
