r"""The final answer inside a completion.

Priority: last \boxed{...} > <answer>...</answer> > last "#### ..." > last "answer is ..." > (numeric gold) last number
> last lines, as many as the gold answer has. A marker with nothing behind it does not count.
"""

import re
from dataclasses import dataclass

from opsd_core.graders.numbers import find_numbers

MAX_CHARS = 20_000
"""Only the end of a longer completion is searched: answers stand at the end, and patterns must stay fast."""
_BRACE = re.compile(r"\\boxed\{|[{}]")
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
_ANSWER_IS = re.compile(
    r"\banswer\b[^\n:=]{0,120}?(?:\b(?:is|was|are|be|equals)\b[ \t]*:?|[:=])[ \t*_]*(?=\S|\n)", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_WRAPPING = " \t\r\n*_`\"'"


@dataclass(frozen=True)
class Answer:
    """An extracted answer and whether the text marked it as its answer."""

    text: str
    marked: bool


def find_answer(text: str, numeric: bool = False, num_lines: int = 1) -> Answer | None:
    """The final answer of `text`, or None when it has none.

    numeric: the gold answer is a number, so the last number stands in for a missing marker.
    num_lines: lines of the gold answer; that many lines are taken.
    """
    text = text[-MAX_CHARS:]
    if (marked := marked_answer(text, num_lines)) is not None:
        return Answer(marked, marked=True)
    if numeric:
        numbers = find_numbers(text)
        return Answer(numbers[-1], marked=False) if numbers else None
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    return Answer(_unwrap("\n".join(lines[-num_lines:])), marked=False) if lines else None


def marked_answer(text: str, num_lines: int = 1) -> str | None:
    """What the text itself marks as its final answer, or None."""
    candidates = [last_boxed(text), last_tagged(text)]
    candidates += [match.strip(_WRAPPING) for match in _HASHES.findall(text)[-1:]]
    for match in list(_ANSWER_IS.finditer(text))[-1:]:
        candidates.append(_after_marker(text[match.end() :], num_lines))
    return next((candidate for candidate in candidates if candidate), None)


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} whose braces match, or None."""
    opened: list[tuple[int, bool]] = []
    last: tuple[int, int] | None = None
    for match in _BRACE.finditer(text):
        if match.group() != "}":
            opened.append((match.end(), match.group() != "{"))
        elif opened:
            start, boxed = opened.pop()
            if boxed and (last is None or start > last[0]):
                last = start, match.start()
    return text[slice(*last)].strip() or None if last else None


def last_tagged(text: str) -> str | None:
    """What stands between the last <answer> and </answer>, or None."""
    before, closed, _ = text.rpartition("</answer>")
    _, opened, inside = before.rpartition("<answer>")
    return inside.strip() or None if opened and closed else None


def _after_marker(tail: str, num_lines: int) -> str:
    if num_lines > 1:
        lines = [line.rstrip() for line in tail.splitlines() if line.strip()]
        return _unwrap("\n".join(lines[:num_lines]))
    tail = tail.lstrip(_WRAPPING)
    return _unwrap(_SENTENCE_END.split(tail, maxsplit=1)[0])


def _unwrap(text: str) -> str:
    text = text.strip(_WRAPPING)
    for mark in ("$$", "$"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)]
    return text.rstrip(".").strip(_WRAPPING) if not text.endswith("..") else text


def pick_number(segment: str) -> str | None:
    """The number that a short answer segment means: the last one after the last "=", else the first one."""
    _, equals, right = segment.rpartition("=")
    numbers = find_numbers(right if equals else segment) or find_numbers(segment)
    return numbers[0] if numbers else None


def normalised(text: str) -> str:
    """Case folded, white space collapsed, wrapping quotes, dollars and a final period removed."""
    return " ".join(_unwrap(text).casefold().split())
