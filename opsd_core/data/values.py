"""One value of a row as text, in the form in which it was written wherever that is known.

CSV text 1.50, JSON 1.50, Decimal 1.50   ->   1.50
JSON or Parquet 3.0                      ->   3         (a column of integers with gaps is stored as floats)
JSON or Parquet 1e-05                    ->   0.00001   (programs, not people, write answers so; graders and students read it)
True, dates, [1, "x"] as an answer       ->   True, 2026-01-31, 1, x
"""

import datetime
import math
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from opsd_core.data.records import Written

MAX_FIELD_CHARS = 200_000
"""Longer texts cannot be a prompt and would fill the memory."""
_MAX_EXPONENT = 1000
_SURROGATE = re.compile("[\ud800-\udfff]")
_DAMAGE = re.compile("[\ud800-\udfff\x00\ufffd]")
_INTEGER = re.compile(r"-?\d+\.0")


class UnusableError(Exception):
    """A reason for leaving a row out; never leaves opsd_core.data."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(kind)
        self.kind, self.detail = kind, detail


def plain_text(value: Any, column: str, lists: bool = False) -> str | None:
    """Stripped text of one value; None for no value (null, NaN). `lists` allows lists of texts and numbers.

    Raises UnusableError for what has no one written form, or is no text.
    """
    if lists and isinstance(value, list):
        return _joined(value, column)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = Written(repr(value))
    if value is None:
        return None
    if isinstance(value, Decimal):
        value = Written(str(value))
    if isinstance(value, Written):
        return _number(value.text, column)
    if isinstance(value, bool | int):
        return _integer(value, column)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if not isinstance(value, str):
        inside = {dict: f"; name a field of it: {column}.name", list: f"; name an element of it: {column}[0]"}
        hint = inside.get(type(value), "")
        raise UnusableError(f"column {column!r} is {type(value).__name__}, not text or a number{hint}")
    text = value.strip()
    _refuse_damage(text, column)
    return text


def _integer(value: int, column: str) -> str:
    try:
        return str(value)
    except ValueError as error:  # more digits than Python writes
        raise UnusableError(f"column {column!r} has an integer of thousands of digits") from error


def _joined(items: list[Any], column: str) -> str:
    texts = []
    for item in items:
        if isinstance(item, list | dict):
            raise UnusableError(f"column {column!r} is a list of {type(item).__name__}s, not of texts or numbers")
        text = plain_text(item, column)
        if not text:
            raise UnusableError(f"column {column!r} is a list with an empty element")
        if "," in text and len(items) > 1:
            raise UnusableError(f"column {column!r} is a list whose elements hold commas")
        texts.append(text)
    return ", ".join(texts)


def _number(text: str, column: str) -> str:
    if text.lstrip("+-").lower() in ("inf", "infinity"):
        raise UnusableError(f"column {column!r} is infinite")
    if text.lower().lstrip("+-") in ("nan", "snan"):
        raise UnusableError(f"column {column!r} is not a number (NaN)")
    if _INTEGER.fullmatch(text):
        return text[:-2] if text != "-0.0" else "0"
    if "e" not in text.lower():
        return text
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise UnusableError(f"column {column!r} has the number {text[:40]}, which is out of range") from error
    if number and abs(number.adjusted()) > _MAX_EXPONENT:
        raise UnusableError(f"column {column!r} has a number beyond 10^{_MAX_EXPONENT}", f": {text[:40]}")
    plain = f"{number:f}" if number else "0"
    return plain[:-2] if _INTEGER.fullmatch(plain) else plain


def _refuse_damage(text: str, column: str) -> None:
    """Characters that no text holds: they are what is left of a wrong decoding or of a torn file."""
    if not _DAMAGE.search(text):
        return
    if _SURROGATE.search(text):
        raise UnusableError(f"column {column!r} holds half a surrogate pair, which is not text")
    if "\x00" in text:
        raise UnusableError(f"column {column!r} holds a NUL character, which is not text")
    raise UnusableError(f"column {column!r} holds U+FFFD, which stands where a text was decoded wrongly")
