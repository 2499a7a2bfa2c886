"""Places in a row: a column's name, or a path into a column that holds objects or lists.

    reward_model.ground_truth    messages[-1].content    messages[user].content

A column of exactly that name comes first. `[word]` is the element whose `role` (or `from`) is that word: the only one, so that a
conversation of several turns is never taken for a question and its answer.
"""

import re
from typing import Any

from opsd_core.data.json_values import parse

_STEP = re.compile(r"\.([^.\[\]]+)|\[(-?\d{1,9}|[A-Za-z_]\w*)\]")
_ROLES = ("role", "from")


class PlaceError(Exception):
    """Why there is no value at a place; never leaves opsd_core.data."""


def head(name: str) -> str:
    """The column that a path begins with; the name itself when it is no path."""
    column, _ = _split(name)
    return column


def heads(names: list[str], present: list[str]) -> list[str]:
    """The columns to read for these names, each once."""
    return list(dict.fromkeys(name if name in present else head(name) for name in names))


def value_at(row: dict[str, Any], name: str) -> Any:
    """The value at a place; None where a column or field is absent. Raises PlaceError where the path does not fit the value."""
    if name in row:
        return row[name]
    column, steps = _split(name)
    value, so_far = row.get(column), column
    for step in steps:
        if value is None:
            return None
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            value = _parsed(value, so_far)
        value = _step(value, step, so_far)
        so_far += step
    return value


def unread_messages(row: dict[str, Any], names: list[str]) -> list[str]:
    """Roles of the messages that none of the places `names` takes, of the lists that they take messages from."""
    taken: dict[str, set[str]] = {}
    for name in names:
        column, steps = _split(name)
        if name not in row and steps and steps[0].startswith("["):
            taken.setdefault(column, set()).add(steps[0].strip("[]"))
    unread = []
    for column, keys in taken.items():
        messages = row.get(column)
        for number, message in enumerate(messages if isinstance(messages, list) else []):
            roles = [str(message[role]) for role in _ROLES if role in message] if isinstance(message, dict) else []
            places = {str(number), str(number - len(messages))}
            if roles and not keys & {*roles, *places}:
                unread.append(roles[0])
    return unread


def _split(name: str) -> tuple[str, list[str]]:
    """(column, steps as written); (name, []) for what is no path."""
    begin = min((place for place in (name.find("."), name.find("[")) if place > 0), default=-1)
    if begin < 0:
        return name, []
    steps = [match.group() for match in _STEP.finditer(name, begin)]
    return (name[:begin], steps) if "".join(steps) == name[begin:] else (name, [])


def _parsed(text: str, place: str) -> Any:
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise PlaceError(f"{place!r} is text that is not JSON, so there is nothing inside it") from error


def _step(value: Any, step: str, place: str) -> Any:
    key = step.strip(".[]")
    if step.startswith("."):
        if not isinstance(value, dict):
            raise PlaceError(f"{place!r} is {_kind(value)}, which has no field {key!r}")
        return value.get(key)
    if not isinstance(value, list):
        raise PlaceError(f"{place!r} is {_kind(value)}, not a list")
    if key.lstrip("-").isdigit():
        number = int(key)
        return value[number] if -len(value) <= number < len(value) else None
    found = [item for item in value if isinstance(item, dict) and any(item.get(role) == key for role in _ROLES)]
    if len(found) > 1:
        raise PlaceError(f"{place!r} has several messages of role {key!r}; a conversation of one turn is read")
    return found[0] if found else None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
