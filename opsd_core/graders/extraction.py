r"""The final answer inside a completion.

Thinking is cut away first. Then, in this order: last \boxed{...} > <answer>...</answer> > last "#### ..." > last "answer
is ..." > (numeric gold) last number > the formula or short clause that ends the
last line > last lines, as many as the gold answer has.
A marker with nothing behind it does not count.
"""

import re
from dataclasses import dataclass

from opsd_core.graders.notation import unwrap_text
from opsd_core.graders.numbers import find_numbers, last_number, pick_number
from opsd_core.graders.thoughts import spoken_text

MAX_CHARS = 20_000
"""Only the end of a longer completion is searched: answers stand at the end, and patterns must stay fast."""
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|[{}]")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)[ \t]*([^\s{}$\\][^{}$\n\\]{0,80})")
_JOINED = re.compile(r"[\s$.]*(?:,|;|and|or|\\text\s*\{\s*(?:and|or)\s*\}|,\s*and|,\s*or)[\s$]*$")
_HASHES = re.compile(r"####[ \t]*\n?[ \t]*(\S[^\n]*(?:\n[^\n]+(?=\n\s*(?:\$\$|\\\])))?)")
_ANSWER_IS = re.compile(
    r"\banswer\b(?:(?!\bnot\b|\bcannot\b|n['’]t\b)[^\n:=]){0,120}?(?:\b(?:is|was|are|be|equals)\b[ \t]*:?|[:=])[ \t*_]*"
    r"(?!not\b|n['’]t|correct\b|right\b|wrong\b|known\b|found\b|given by\b)(?=\S|\n)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_DISPLAY = re.compile(r"\$\$(.{1,2000}?)\$\$|\\\[(.{1,2000}?)\\\]", re.DOTALL)
_FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$((?:[^$\\\n]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_CLAUSE = re.compile(r".*(?:\b(?:is|are|be|get|equals|obtain)|:)\s+(\S.*)$")
_MAX_FORMULA_CHARS = 1000
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
    text = answer_text(text)
    strong = _strongly_marked(text)
    if strong is not None:
        return Answer(strong, marked=True)
    weak = _weakly_marked(text, num_lines)
    if weak is not None and not (numeric and _says_nothing(weak)):
        return Answer(weak, marked=True)
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    formula = _last_formula(lines[-1]) if lines and num_lines == 1 else None
    if numeric:
        if number := last_number(text):
            return Answer(number, marked=False)
        return Answer(formula, marked=False) if formula else None
    if lines and num_lines == 1:
        formula = formula or _last_clause(lines[-1])
    return Answer(formula or _unwrap("\n".join(lines[-num_lines:])), marked=False) if lines else None


def answer_text(text: str) -> str:
    """The end of the text in which an answer is looked for, without its thinking."""
    return spoken_text(text)[-MAX_CHARS:]


def marked_answer(text: str, num_lines: int = 1) -> str | None:
    """What the text itself marks as its final answer, or None."""
    strong = _strongly_marked(text)
    return strong if strong is not None else _weakly_marked(text, num_lines)


def _strongly_marked(text: str) -> str | None:
    candidates = [last_boxed(text), last_tagged(text)]
    candidates += [_unwrap(match) for match in _HASHES.findall(text)[-1:]]
    return next((candidate for candidate in candidates if candidate), None)


def _weakly_marked(text: str, num_lines: int) -> str | None:
    for match in list(_ANSWER_IS.finditer(text))[-1:]:
        return _after_marker(text[match.end() :], num_lines) or None
    return None


def _says_nothing(segment: str) -> bool:
    """Whether a segment holds neither a number nor a formula: "Let us think step by step", "correct"."""
    return pick_number(segment) is None and not find_numbers(segment) and not re.search(r"[\\$π√∞]|\d", segment)


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} whose braces match, or None; of boxes joined by "and", "or", ",", all."""
    opened: list[tuple[int, int, bool]] = []
    boxes: list[tuple[int, int, int]] = []
    for match in _BRACE.finditer(text):
        if match.group() != "}":
            opened.append((match.start(), match.end(), match.group() != "{"))
        elif opened:
            begin, start, boxed = opened.pop()
            if boxed:
                boxes.append((begin, start, match.start()))
    boxes = sorted(boxes, key=lambda box: box[1])[-8:]
    if not boxes:
        bare = _BARE_BOX.findall(text)
        return _unwrap(bare[-1]) if bare else None
    parts = [text[boxes[-1][1] : boxes[-1][2]].strip()]
    for (_, _, end), (begin, _, _), box in zip(boxes[-2::-1], boxes[:0:-1], boxes[-2::-1], strict=True):
        if end > begin or begin - end > 40 or not _JOINED.match(text[end + 1 : begin]):
            break
        parts.insert(0, text[box[1] : box[2]].strip())
    return ", ".join(part for part in parts if part) or None


def last_tagged(text: str) -> str | None:
    """What stands between the last <answer> and </answer>, or None; its own "answer is" is taken out."""
    before, closed, _ = text.rpartition("</answer>")
    _, opened, inside = before.rpartition("<answer>")
    if not (opened and closed):
        return None
    return _weakly_marked(inside, inside.strip().count("\n") + 1) or _unwrap(inside) or None


def _after_marker(tail: str, num_lines: int) -> str:
    if num_lines > 1:
        lines = [line.rstrip() for line in tail.splitlines() if line.strip()]
        return _unwrap("\n".join(lines[:num_lines]))
    tail = tail.lstrip(_WRAPPING + "#")
    if display := _DISPLAY.match(tail):
        return _unwrap(display[1] or display[2])
    return _unwrap(_SENTENCE_END.split(tail, maxsplit=1)[0])


def _last_formula(line: str) -> str | None:
    """The formula with which a line ends, if it ends with one."""
    line = line[-_MAX_FORMULA_CHARS:]
    found = next(reversed(list(_FORMULA.finditer(line))), None)
    if found is None or line[found.end() :].strip(" .,;!*_"):
        return None
    return _unwrap(next(group for group in found.groups() if group))


def _last_clause(line: str) -> str | None:
    """What a line says last, if that is short: "The day is Monday.", "The coordinates are (3, 4)."."""
    match = _CLAUSE.match(line[-400:])
    clause = _unwrap(match[1]) if match else ""
    return clause if clause and len(re.findall(r"(?<!\\)\b[A-Za-z]{2,}", clause)) <= 3 else None


def _unwrap(text: str) -> str:
    for _ in range(2):
        text = text.strip(_WRAPPING)
        if not text.endswith(".."):
            text = text.rstrip(".").strip(_WRAPPING)
        for left, right in (("$$", "$$"), ("$", "$"), ("\\[", "\\]"), ("\\(", "\\)")):
            inside = text[len(left) : -len(right)]
            if inside and text.startswith(left) and text.endswith(right) and left not in inside:
                text = inside
    return text.strip(_WRAPPING)


def normalised(text: str) -> str:
    r"""Case folded, white space collapsed; wrapping quotes, dollars, \text{...} and a final period removed."""
    return " ".join(_unwrap(unwrap_text(_unwrap(text))).casefold().split())
