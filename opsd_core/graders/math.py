"""`math`: equal strings, else equal numbers, else math-verify in a process of its own."""

import re
from fractions import Fraction

from opsd_core.graders.canonical import MAX_ANSWER_CHARS, based_number, canonical_answer, without_unit
from opsd_core.graders.extraction import find_answer, last_boxed
from opsd_core.graders.isolation import VERIFIERS, VerifierError
from opsd_core.graders.notation import latex_text, unify_signs, unwrap_text
from opsd_core.graders.numbers import parse_number, pick_number, read_number, same_number
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example

_FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_EXPRESSION = re.compile(
    r"\\(?!text|math[rbis]|mbox|[,;: !$%])|[\^_√π{}()\[\]*+<>|=/-]|\d|(?<![A-Za-z])[A-Za-z](?![A-Za-z])"
)
"""Signs that an answer may be more than words."""
_WORDS = re.compile(r"[A-Za-z]{4,}|\b(?:yes|no|odd|red|all|one|two|six|ten)\b", re.IGNORECASE)
_ASSIGNED = re.compile(r"\s*([A-Za-z]\w*(?:_\{?\w+\}?)?(?:\s*\([A-Za-z]\))?)\s*=(?!.*=)")
_AND = re.compile(r"(?:,\s*)?(?:\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b)\s*,?")


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    return "" if example.answer.strip() else "the answer is empty"


def grade(example: Example, text: str) -> Grade:
    """Equal as numbers, as strings, or as expressions (math-verify, gold first).

    What math-verify cannot read is wrong unless the strings are equal. A verifier that fails or needs more than 5
    seconds gives "wrong" with a note.
    """
    gold = last_boxed(example.answer) or example.answer.strip()
    gold_number = parse_number(gold)
    answer = find_answer(text, numeric=gold_number is not None)
    if answer is None:
        return Grade(False, None, 0.0)
    found = answer.text[-MAX_ANSWER_CHARS:]
    verdict = _without_verifier(gold, gold_number, found)
    if verdict is None:
        try:
            verdict = VERIFIERS.call("verify_math", gold=_formula(gold), answer=_formula(found))
        except VerifierError as error:
            return Grade(False, canonical_answer(found), 0.0, f"math-verify: {error}")
    return Grade(bool(verdict), canonical_answer(gold if verdict else found), float(bool(verdict)))


def _without_verifier(gold: str, gold_number: Fraction | None, answer: str) -> bool | None:
    """The verdict where strings, numbers, bases or words decide; None where expressions have to be compared."""
    names = _ASSIGNED.match(_bare(gold)), _ASSIGNED.match(_bare(answer))
    if names[0] and names[1] and names[0][1] != names[1][1]:
        return False
    if canonical_answer(answer) == canonical_answer(gold):
        return True
    gold_based, answer_based = based_number(gold), based_number(answer)
    if gold_based:
        plain = re.fullmatch(r"[0-9A-Za-z]+", _bare(answer))
        return gold_based == answer_based or bool(plain and _bare(answer).upper() == gold_based[0])
    if answer_based:
        return answer_based[1] == 10 and gold_number is not None and gold_number == int(answer_based[0])
    if {_bracket(gold), _bracket(answer)} == {"set", "tuple"}:
        return False
    number = read_number(found) if (found := pick_number(answer)) else None
    if gold_number is not None and number is not None:
        return same_number(gold_number, number) or _same_percentage(gold, gold_number, answer, number)
    if _is_words(gold) or not _EXPRESSION.search(_bare(answer)):
        return False
    return None


def _same_percentage(gold: str, gold_number: Fraction, answer: str, number: Fraction) -> bool:
    percent = "%" in gold, "%" in answer
    if percent == (False, True):
        return same_number(gold_number, number / 100)
    return percent == (True, False) and same_number(gold_number / 100, number)


def _is_words(gold: str) -> bool:
    bare = re.sub(r"\\(?:text\w*|math\w+|mbox)\s*\{([^{}]*)\}", r" \1 ", gold)
    return not re.search(r"[\\\d^_=<>+*/]", bare) and bool(_WORDS.search(bare))


def _bracket(text: str) -> str:
    """Whether a text is written as a set, as a tuple or interval, or neither."""
    bare = re.sub(r"\\left|\\right", "", _bare(text))
    if bare.startswith("\\{") and bare.endswith("\\}"):
        return "set"
    return "tuple" if bare[:1] in ("(", "[") and bare[-1:] in (")", "]") and "," in bare else ""


def _bare(text: str) -> str:
    return unwrap_text(unify_signs(text)).strip(" $.\t\n")


def _formula(text: str) -> str:
    """The LaTeX that math-verify compares: the one formula inside words, without a unit, "and" as a comma."""
    inside = [next(group for group in match.groups() if group) for match in _FORMULA.finditer(text)]
    text = inside[0] if len(inside) == 1 else text
    return latex_text(without_unit(_AND.sub(", ", text)))
