"""JSON as it is written: numbers keep their digits, a key that stands twice is an error, NaN is no value."""

import json
from typing import Any

from opsd_core.data.records import Written

_MAX_INTEGER_DIGITS = 4000


def parse(text: str) -> Any:
    """The value. ValueError (with the place, where it is a syntax error) or RecursionError for what is not JSON."""
    return json.loads(text, object_pairs_hook=_object, parse_float=Written, parse_int=_integer)


def _integer(text: str) -> Any:
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else Written(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return values
