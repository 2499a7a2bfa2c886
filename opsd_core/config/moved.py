"""Settings that had another name: configurations of older campaigns are read, older names in new ones are refused by name."""

from copy import deepcopy
from typing import Any

MOVED = {
    "rollout.num_shards": "execution.num_shards",
    "rollout.batch_size": "execution.rollout_batch_size",
    "evaluation.batch_size": "execution.evaluation_batch_size",
    "optimizer.microbatch_tokens": "execution.microbatch_tokens",
    "optimizer.checkpoint_every": "execution.checkpoint_every",
    "weights": "token_weights",
    "teacher.peer_gate": "teacher.peer_filter",
}
"""Old path -> new path, of settings and of whole sections."""


def with_present_names(values: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration of an older campaign under the names of today; a new name that is there already wins."""
    values = deepcopy(values)
    for old, new in MOVED.items():
        *parents, leaf = old.split(".")
        section = values
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict) or leaf not in section:
            continue
        *parents, new_leaf = new.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {}) if isinstance(target, dict) else None
        if isinstance(target, dict):  # else it is refused by its present name
            target.setdefault(new_leaf, section.pop(leaf))
    return values


def present_name(path: str) -> str | None:
    """Today's name of the setting at `path`; None where it never had another one."""
    for old, new in MOVED.items():
        if path == old or path.startswith(f"{old}."):
            return new + path.removeprefix(old)
    return None
