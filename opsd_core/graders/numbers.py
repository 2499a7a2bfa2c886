"""Numbers in text: finding them, reading them exactly, comparing them."""

import re
from fractions import Fraction

_NUMBER = re.compile(
    r"(?<![\w.)\]])[-+]?\d+\s+\d+\s*/\s*\d+(?![\d/])"  # 1 1/2
    r"|(?:(?<![\w.)\]])[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+(?!\w))?(?:\s*/\s*\d+(?![\d/]))?"
    r"|(?:(?<![\w.)\]])[-+])?\.\d+"
)
_LATEX_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*\{\s*(-?[\d.]+)\s*\}\s*\{\s*([\d.]+)\s*\}")
_MAX_CHARS = 200
"""Longer digit strings are not answers; Python refuses to convert more than 4,300 digits."""
_MAX_EXPONENT = 300
"""1e999999999 as an exact fraction would fill the memory."""
RELATIVE_TOLERANCE = 1e-6


def plain_text(text: str) -> str:
    """`text` with LaTeX fractions, thousands separators, dashes and dollar signs in plain notation."""
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\,", "").replace("\\!", "")
    text = text.replace("\\%", "%").replace("\\$", "").replace("$", "")
    return _LATEX_FRACTION.sub(r"\1\2/\3", text)


def find_numbers(text: str) -> list[str]:
    """Every number in `text`, as written: signs, thousands separators, decimals, exponents, fractions."""
    return [match.group() for match in _NUMBER.finditer(plain_text(text))]


def parse_number(text: str) -> Fraction | None:
    """The exact value of a text that is one number (units and symbols around it allowed), else None."""
    numbers = find_numbers(text)
    return read_number(numbers[0]) if len(numbers) == 1 else None


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
        mixed = re.fullmatch(r"([-+]?\d+)\s+(\d+)\s*/\s*(\d+)", number)
        if mixed:
            units, numerator, denominator = (int(part) for part in mixed.groups())
            sign = -1 if number.startswith("-") else 1
            return units + sign * Fraction(numerator, denominator)
        top, bottom = number.replace(",", "").split("/")
        return Fraction(top.strip()) / Fraction(bottom.strip())
    except (ValueError, ZeroDivisionError):
        return None


def same_number(gold: Fraction, other: Fraction) -> bool:
    """Equal; two that are not both whole numbers may differ by one millionth of the larger."""
    if gold == other:
        return True
    if gold.denominator == other.denominator == 1:
        return False
    return abs(gold - other) <= Fraction(RELATIVE_TOLERANCE) * max(abs(gold), abs(other))


def canonical_number(value: Fraction) -> str:
    """One string per value: 12, -3, 1/3, 5/2."""
    return str(value)
