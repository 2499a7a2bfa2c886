"""Settings as Python writes them: nested or by dotted names, with paths and numpy's numbers among the values."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from opsd_core.config.recipes import deep_merge, inside
from opsd_core.config.refusals import MAX_DEPTH
from opsd_core.errors import ConfigError


def plain_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` as JSON has it: {"rollout.temperature": np.float32(1)} and {"rollout": {"temperature": 1}} are the same.

    A later name wins. ConfigError naming the setting whose value no file of settings could hold.
    """
    tree: dict[str, Any] = {}
    for key, value in given.items():
        if not isinstance(key, str):
            raise ConfigError(f"the setting {key!r:.80} has no name: keys of settings are text.")
        section, leaf = inside(tree, key)
        new, old = _plain(value, key, 0), section.get(leaf)
        section[leaf] = deep_merge(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
    return tree


def _plain(value: Any, path: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ConfigError(f"{path:.80}... is nested more than {MAX_DEPTH} levels deep; settings have four.")
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner, f"{path}.{key!s:.80}", depth + 1) for key, inner in value.items()}
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, bytes | bytearray | memoryview):
        return [_plain(inner, path, depth + 1) for inner in value]
    raise ConfigError(
        f"{path}={value!r:.80} is {type(value).__name__}, which no settings file could hold. Give text, numbers, true or false, "
        "lists, or objects of them; data goes into a file that data.source names."
    )
