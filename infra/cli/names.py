"""Versions as people name them: `demo`, `demo@champion`, `demo/3`, `models:/demo/3`."""

import re
from typing import TYPE_CHECKING, NamedTuple

from opsd_core.config.refusals import meant
from opsd_core.errors import ConfigError

if TYPE_CHECKING:
    from tasks.tracking import Tracker

_NAMED = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>[1-9][0-9]{0,8}))?")


def registry() -> "Tracker":
    """MLflow, which answers now: nobody at a keyboard waits as long as a stage does. ServiceError or ConfigError otherwise."""
    from tasks.tracking import Tracker

    tracker = Tracker(patience_s=20.0)
    tracker.check()
    return tracker


def registered(name: str, tracker: "Tracker | None" = None) -> str:
    """`name` when it is a registered model's; ConfigError naming those there are, before anything waits in a queue."""
    if name not in (known := (tracker or registry()).model_names()):
        there = ", ".join(known[:20]) or "none"
        raise ConfigError(f"there is no registered model {name!r:.100}. There are: {there}.{meant(name, known)}")
    return name


class Named(NamedTuple):
    """A model, and the version that was named with it."""

    name: str
    alias: str | None
    number: int | None


def named(text: str, version: str | None = None) -> Named:
    """What `text`, or `text` and a version beside it, names. ConfigError when it names none, or two."""
    match = _NAMED.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r:.200} names no version. Write NAME, NAME@champion or NAME/3.")
    alias, number = match["alias"], int(match["number"]) if match["number"] else None
    if version is None:
        return Named(match["name"], alias, number)
    if alias or number:
        raise ConfigError(f"{text!r:.200} and {version!r:.50} name two versions. Give one of them.")
    if version.isdigit() and int(version):
        return Named(match["name"], None, int(version))
    if re.fullmatch(r"@?[A-Za-z][\w-]*", version):
        return Named(match["name"], version.removeprefix("@"), None)
    raise ConfigError(f"version {version!r:.50} is neither a number nor an alias such as champion.")


def number_of(found: Named, default: str | None = None) -> int | None:
    """The number of the version; `default` is the alias that stands where none is named, None = the caller's own choice.

    ConfigError naming the models or the versions that there are, when there is no such one.
    """
    tracker = registry()
    registered(found.name, tracker)
    alias = found.alias or (default if found.number is None else None)
    if alias is None and found.number is None:
        return None
    address = f"models:/{found.name}/{found.number}" if found.number else f"models:/{found.name}@{alias}"
    return tracker.resolve(address, "version").version
