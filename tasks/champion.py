"""Moves of the champion alias by a person."""

from prefect import task
from prefect.artifacts import create_table_artifact

from opsd_core.errors import ConfigError
from tasks.context import tracker
from tasks.retries import STAGE


@task(name="promote-version", **STAGE)
def promote_version(name: str, version: int | None, reason: str, who: str) -> str:
    """Move `champion` to `version` (the candidate when None). ConfigError when there is no such version."""
    registry = tracker()
    target = version or registry.version_by_alias(name, "candidate")
    if target is None:
        raise ConfigError(f"model {name!r} has no candidate. Give version, or check name: is it the campaign's?")
    before = registry.promote(name, target, reason, who)
    _history(name)
    return f"{name}: version {target} is champion (before: {before or 'none'})"


@task(name="roll-back", **STAGE | {"retries": 0})  # tried again after a half-done move it would go back twice
def roll_back(name: str, reason: str, who: str) -> str:
    """Move `champion` back to `previous`."""
    registry = tracker()
    before = registry.version_by_alias(name, "champion")
    after = registry.rollback(name, reason, who, expected_champion=before)
    _history(name)
    return f"{name}: version {after} is champion again (before: {before})"


def _history(name: str) -> None:
    rows = [vars(move) for move in tracker().moves(name)]
    slug = "".join(char if char.isalnum() else "-" for char in name)
    create_table_artifact(rows, key=f"opsd-{slug}-champions", description=f"Every change of the champion of {name}")
