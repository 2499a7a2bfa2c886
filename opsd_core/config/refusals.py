"""What a user reads when a configuration is refused: the field, the rule in plain words, the value that was given."""

import math
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from opsd_core.addresses import bare, holds_secret
from opsd_core.config.moved import present_name
from opsd_core.errors import ConfigError

MAX_DEPTH = 50
"""Levels of nesting; the deepest setting has four."""
_HALF_TYPED = 3
"""Letters from which on a name that begins so is taken for the one that was meant."""
_MAX_PROBLEMS, _MAX_VALUE, _MAX_TEXT = 12, 80, 1500
_NO_HALVES = "must be text without half characters (surrogates)"
_UNKNOWN = "unknown key; see docs/configuration.md for the names that exist"
_RULES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be an object of names and values",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number, and not a huge one",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "missing": "is required",
    "model_attributes_type": 'must be an object of settings, such as {"name": value}',
    "model_type": 'must be an object of settings, such as {"name": value}',
    "string_sub_type": "must be text",
    "string_type": "must be text",
    "string_unicode": _NO_HALVES,
    "tuple_type": "must be a list",
}
"""Where pydantic's own sentence speaks of Python; the others are kept."""


def as_settings(values: Any, what: str = "overrides") -> dict[str, Any]:
    """`values` when it is a nest of objects with names as keys; ConfigError saying where it is not text, or where a secret is."""
    if not isinstance(values, dict):
        raise ConfigError(
            f'{what}={shown(values)} must be an object of settings, nested as in docs/configuration.md: {{"rollout": '
            '{"temperature": 0.8}}. Leave it out, or give {}, to change nothing.'
        )
    todo: list[tuple[str, Any, int]] = [(what, values, 0)]
    while todo:
        path, value, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise ConfigError(f"{path:.{_MAX_VALUE}}... is nested more than {MAX_DEPTH} levels deep; settings have four.")
        if isinstance(value, list | tuple):
            todo += [(path, item, depth + 1) for item in value]
        elif isinstance(value, dict):
            if wrong := [key for key in value if not isinstance(key, str)]:
                raise ConfigError(f"{path} has the key {shown(wrong[0])}, which is no name: keys of settings are text.")
            if halves := [key for key in value if _has_halves(key)]:
                raise ConfigError(f"{path} has the key {shown(halves[0])}, which {_NO_HALVES}.")
            todo += [(f"{path}.{key:.{_MAX_VALUE}}", item, depth + 1) for key, item in value.items()]
        elif isinstance(value, str) and _has_halves(value):
            raise ConfigError(f"{bare(path)}={shown(value)} {_NO_HALVES}.")
        elif isinstance(value, str) and holds_secret(value):
            raise ConfigError(
                f"{bare(path)}={shown(value)} holds a password, signature or token, which would stand in every record. "
                "Give an address without one: put the file into s3:// or a local folder, where credentials are variables."
            )
    return values


def _has_halves(text: str) -> bool:
    """Whether it holds half a surrogate pair, which no file, record or message can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def known_name(value: Any, known: Iterable[str], what: str, kind: str) -> str:
    """`value` when it is one of `known`; ConfigError with those otherwise."""
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{what}={shown(value)} {kind}. Available: {', '.join(sorted(known))}.{meant(value, known)}")
    return value


def meant(value: Any, known: Iterable[str]) -> str:
    """" Did you mean 'x'?" with the nearest of `known`; empty where none is near."""
    near = get_close_matches(value, list(known), 1) if isinstance(value, str) else []
    return f" Did you mean {near[0]!r}?" if near else ""


def explained(error: ValidationError, settings: type[BaseModel] | None = None) -> str:
    """Every problem in one line: `field: rule (value: ...)`, joined by semicolons; the rest is counted.

    settings: the class that was refused; an unknown key is then answered with the nearest of its names.
    """
    known = list(paths_of(settings)) if settings else []
    problems = error.errors(include_url=False, include_context=False)
    lines = list(dict.fromkeys(_line(problem, known) for problem in problems))
    more = len(lines) - _MAX_PROBLEMS
    return "; ".join(lines[:_MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def shown(value: Any) -> str:
    """A value as a user writes it, cut to a line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        text = bare(repr(value))
    except (RecursionError, ValueError):  # nested without end, or a number of more digits than Python prints
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + "..."


def paths_of(settings: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting and section of a class by its path, `rollout` and `rollout.temperature` for instance."""
    for name, field in settings.model_fields.items():
        yield f"{prefix}{name}"
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from paths_of(kind, f"{prefix}{name}.")


def nearest(path: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant: in the same section one that begins so or is like it, elsewhere the same one, the path
    most like it, or one that begins so.
    """
    known = list(known)
    section, _, leaf = path.rpartition(".")
    begins = [name for name in known if len(leaf) >= _HALF_TYPED and name.rpartition(".")[2].startswith(leaf)]
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    if here := [name for name in begins if name in beside.values()]:
        return min(here, key=len)
    if close := get_close_matches(leaf, beside, 1, 0.7):
        return beside[close[0]]
    elsewhere = [name for name in known if name.rpartition(".")[2] == leaf]
    near = elsewhere or get_close_matches(path, known, 1, 0.8) or begins
    return min(near, key=len, default=None)


def _line(problem: Mapping[str, Any], known: list[str]) -> str:
    kind, loc = problem["type"], list(problem["loc"])
    if loc[-1:] and loc[-1] in ("int", "float", "str", "bool"):  # one line for all members of a union
        loc, message = loc[:-1], "must be a number, text, true or false"
    else:
        message = _RULES.get(kind) or problem["msg"].removeprefix("Value error, ")
        message = message.replace("Input should be ", "must be ").replace("after validation, not", "but has")
        for noun in ("String", "Tuple", "List", "Dictionary"):
            message = message.replace(f"{noun} should ", "must ")
    field = ".".join(_part(part) for part in loc if part != "[key]")
    if kind == "extra_forbidden":
        message = _unknown(field, known)
    value = "" if kind in ("value_error", "missing") else f" (value: {shown(problem.get('input'))})"
    return f"{field + ': ' if field else ''}{_cut(message)}{value}"


def _unknown(field: str, known: list[str]) -> str:
    if new := present_name(field):
        return f"is now called {new}"
    if field not in known and len(field) <= _MAX_VALUE and (near := nearest(field, known)):
        return f"{_UNKNOWN}. Did you mean {near}?"
    *parents, leaf = field.split(".")
    if parents and all(part.isidentifier() for part in (*parents, leaf)):
        nested = f'"{leaf}": ...'
        for parent in reversed(parents):
            nested = f'"{parent}": {{{nested}}}'
        return f"{_UNKNOWN}. Settings are nested, as in {{{nested}}}" if len(nested) < _MAX_VALUE else _UNKNOWN
    return _UNKNOWN


def _part(part: Any) -> str:
    text = str(part)
    return _cut(text if text.isprintable() and text else repr(text), _MAX_VALUE)


def _cut(text: str, most: int = _MAX_TEXT) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"
