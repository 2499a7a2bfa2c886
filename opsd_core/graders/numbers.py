"""Numbers in text: finding them, reading them exactly, comparing them."""

import re
from fractions import Fraction

from opsd_core.graders.notation import plain_text

_NUMBER = re.compile(
    r"(?<![\w.^])(?<![\^_][-+])(?:"
    r"\d+\s+\d+\s*/\s*\d+(?![\d/])"  # 1 1/2
    r"|(?:(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+(?!\w))?(?:\s*/\s*\d+(?:\.\d+)?(?![\d/]))?"
    r")"
)
_SCALE = re.compile(r"\s*(thousand|million|billion|trillion)\b", re.IGNORECASE)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SIGN = re.compile(r"(?:([-+±])|\b(minus|negative)\b)\s*\(?$", re.IGNORECASE)
_SIGN_WORDS = re.compile(r"(?:is|are|be|was|equals?|to|get|gives?|of)$", re.IGNORECASE)
_COMPOUND = (
    r"(?:hours?|hrs?|h|minutes?|mins?|feet|foot|ft|yards?|pounds?|lbs?|years?|months?|weeks?|days?|dollars?)"
    r"\s*(?:,|and)?\s*"
)
"""A unit of which a smaller one follows: 5 feet 6 inches."""
_MATH_BEFORE = re.compile(
    r"(?:[*/×÷^√|<>≠≤≥±!+]|\\[a-zA-Z]+(?:_\w+)?(?:\[\w+\])?\s*\{?|[}\]]\s*\{|\d\s*(?:or|to)"
    r"|(?:\bnot|n['’]t|\bnever|\bcannot)(?:\s+be)?|\bthan"
    r"|[(\[⦃]\s*-?[\d./]+\s*,|\b[A-Za-z]\s*=\s*[^=\s]{1,20}\s*(?:,|and|or)\s*[A-Za-z]\s*=|\d\s*"
    + _COMPOUND
    + r")\s*[({]?$"
)
_REFUSED_BEFORE = re.compile(
    r"[<>≤≥≠±√π∞|+*/÷^_]|\\(?!approx)[a-zA-Z]+|\b(?:not|between|cannot|never|than|unknown|undefined)\b|n['’]t\b"
)
_CONTINUES = re.compile(
    r"\s*[\^!_√π±|]|\.\d"
    r"|\s*[-+*/÷]\s*(?:\d|\(|\\|[a-zA-Zπ√](?![a-zA-Z]))"
    r"|\s*\\[a-zA-Z]"
    r"|[a-zA-Z]?\("
    r"|(?:[xyzniabcdfpqrtuvwkKMBe]|0?x[0-9A-Fa-f]+)(?![a-zA-Z/])|\s+[xyzni](?![a-zA-Z.])"
    r"|\s*(?:[,;]|\bor\b|,?\s*\band\b|\bto\b)\s*(?:or\s|and\s)?\s*[-+(]?\s*\.?\d"
    r"|\s*:\s*\d|\s*(?:[<>≤≥≠])"
    r"|\s*" + _COMPOUND + r"\d"
)
_BASE = re.compile(r"\b(?:in\s+)?(?:base|radix)\b", re.IGNORECASE)
_EQUALS = re.compile(r"(?<![<>!:=])[=≈](?!=)")
_ASSIGNED = re.compile(r"(?:[,;]|\band\b|\bor\b)\s*[A-Za-z](?:_\w+)?\s*$")
_MAX_CHARS = 200
"""Longer digit strings are not answers; Python refuses to convert more than 4,300 digits."""
_MAX_SEGMENT_CHARS = 2000
_MAX_EXPONENT = 300
"""1e999999999 as an exact fraction would fill the memory."""
RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-3
"""The most that two numbers may differ: a millionth of 1,396,462 is more than a rounding."""


def find_numbers(text: str) -> list[str]:
    """Every number in `text`, as written: signs, thousands separators, decimals, exponents, fractions.

    Exponents, indices and digits that end a name (m^2, x_1, CO2) are no numbers.
    """
    text = plain_text(text)
    return [_signed(text, match)[0] for match in _NUMBER.finditer(text)]


def pick_number(segment: str) -> str | None:
    """The one number that a short answer means, or None when it means an expression, a list, a range or none.

    Units and words around it do not count: "x = 5 m^2" is 5, "7 = 3 + 4" is 7; "3π", "2^3", "3 or 4" are no number.
    """
    text = plain_text(segment[:_MAX_SEGMENT_CHARS])
    parts = _EQUALS.split(text)
    if len(parts) > 1:
        if any(_ASSIGNED.search(part) for part in parts[1:-1]):
            return None
        right = _bare_number(parts[-1])
        return right or (_bare_number(parts[-2], whole=True) if _NUMBER.search(parts[-1]) else None)
    return _bare_number(text)


def last_number(text: str) -> str | None:
    """The last number of a text that marks no answer; None when that number is part of something else."""
    text = plain_text(text)
    match = next(reversed(list(_NUMBER.finditer(text))), None)
    if match is None:
        return None
    start = text.rfind("\n", 0, match.start()) + 1
    if re.fullmatch(r"[\d\s.,;-]*\d\s*[,;]\s*-?", text[start : match.start()]):
        return None
    number, sign_start, joined = _signed(text, match)
    if joined or _CONTINUES.match(text, match.end()) or _MATH_BEFORE.search(text[max(0, sign_start - 40) : sign_start]):
        return None
    return _scaled(number, text, match.end())


def parse_number(text: str) -> Fraction | None:
    """The exact value of a text that is one number (units and symbols around it allowed), else None."""
    if len(find_numbers(text)) != 1 or (number := pick_number(text)) is None:
        return None
    return read_number(number)


def _bare_number(text: str, whole: bool = False) -> str | None:
    match = _NUMBER.search(text)
    if match is None:
        return None
    number, start, joined = _signed(text, match, segment=True)
    if joined or _CONTINUES.match(text, match.end()) or _REFUSED_BEFORE.search(text[:start].lstrip(" *\n")):
        return None
    if _BASE.search(text[match.end() : match.end() + 20]) or (whole and text[match.end() :].strip()):
        return None
    return _scaled(number, text, match.end())


def _scaled(number: str, text: str, end: int) -> str:
    scale = _SCALE.match(text, end)
    value = read_number(number) if scale else None
    return str(value * _SCALES[scale[1].lower()]) if scale and value is not None else number


def _signed(text: str, match: re.Match[str], segment: bool = False) -> tuple[str, int, bool]:
    """The number with its sign, where that begins, and whether the sign joins it to what stands before (12-5)."""
    start = match.start()
    sign = _SIGN.search(text, max(0, start - 12), start)
    if sign is None:
        return match.group(), start, False
    before = text[: sign.start()].rstrip(" \t")
    negative = sign[1] == "-" or bool(sign[2])
    signed = ("-" if negative else "") + match.group(), sign.start(), False
    plain = match.group(), start, False
    adjacent = sign.end() == start and not sign.group()[-1].isspace()
    if sign[1] == "±":
        return match.group(), start, True
    if not before or (segment and not before.strip(" \t\n*_:(")):
        return signed
    if before[-1].isdigit() or before[-1] in ")]}!%":
        return match.group(), start, True
    if before[-1] == "\n":
        return signed if adjacent or sign[2] else plain
    if before[-1].isalpha():
        if sign[2] or (adjacent and len(before) < sign.start()) or _SIGN_WORDS.search(before[-10:]):
            return signed
        return match.group(), start, len(before) == sign.start() or (segment and sign[1] == "-")
    return signed if adjacent or sign[2] or before[-1] in "=≈(:,;[" else plain


def read_number(number: str) -> Fraction | None:
    """The exact value of one match of `find_numbers`; None when it is too long or divides by zero."""
    if len(number) > _MAX_CHARS:
        return None
    exponent = re.search(r"[eE]([-+]?\d+)", number)
    if exponent and abs(int(exponent.group(1))) > _MAX_EXPONENT:
        return None
    try:
        if "/" not in number:
            return Fraction(number.replace(",", ""))
        mixed = re.fullmatch(r"([-+]?)(\d+)\s+(\d+)\s*/\s*(\d+)", number)
        if mixed:
            units, numerator, denominator = (int(part) for part in mixed.groups()[1:])
            value = units + Fraction(numerator, denominator)
            return -value if mixed[1] == "-" else value
        top, bottom = number.replace(",", "").split("/")
        return Fraction(top.strip()) / Fraction(bottom.strip())
    except (ValueError, ZeroDivisionError):
        return None


def same_number(gold: Fraction, other: Fraction) -> bool:
    """Equal; two that are not both whole numbers may differ by one millionth of the larger, at most by a thousandth."""
    if gold == other:
        return True
    if gold.denominator == other.denominator == 1:
        return False
    allowed = min(Fraction(RELATIVE_TOLERANCE) * max(abs(gold), abs(other)), Fraction(ABSOLUTE_TOLERANCE))
    return abs(gold - other) <= allowed


def canonical_number(value: Fraction) -> str:
    """One string per value: 12, -3, 1/3, 5/2."""
    return str(value)
