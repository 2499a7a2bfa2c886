"""Moves of the champion alias by a person."""

from prefect.artifacts import create_table_artifact

from opsd_core.errors import ConfigError, ServiceError
from opsd_core.judgement.verdict import ROLLED_BACK
from tasks.champion.answered import record_answer, record_move
from tasks.champion.whole import check_version
from tasks.context import tracker
from tasks.exclusive import champion_moves
from tasks.runtime.announce import announce
from tasks.runtime.progress import artifact_key
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task


@task(name="promote-version", **STAGE)
def promote_version(name: str, version: int | None, reason: str, who: str) -> str:
    """Move `champion` to `version` (the candidate when None).

    ConfigError when there is no such version, IntegrityError when it is no longer stored whole.
    """
    registry = tracker()
    target = version or registry.version_by_alias(name, "candidate")
    if target is None:
        raise ConfigError(f"model {name!r} has no candidate. Give version, or check name: is it the campaign's?")
    check_version(name, target)
    with champion_moves(name):
        if version is None:
            _still(name, "candidate", target)
        moved = registry.version_by_alias(name, "champion") != target
        before = registry.promote(name, target, reason, who)
        record_move(registry, name, target, moved, who, reason)  # whoever was asked: this is the answer
    history(name)
    text = f"{name}: version {target} is champion (before: {before or 'none'})"
    announce("promoted", (name, target), f"{text}, by {who}: {reason}", because="person", links=_page(name, target))
    return text


@task(name="roll-back", **STAGE)
def roll_back(name: str, reason: str, who: str) -> str:
    """Move `champion` back to `previous`. ConfigError when there is none, IntegrityError when it is no longer stored whole."""
    registry = tracker()
    target = registry.version_by_alias(name, "previous")
    if target is not None:
        check_version(name, target)
    with champion_moves(name):
        _still(name, "previous", target)
        before = registry.version_by_alias(name, "champion")
        after = registry.rollback(name, reason, who, expected_champion=before)
        if before is not None:
            record_answer(registry, name, before, ROLLED_BACK, who, reason)
        record_move(registry, name, after, False, who, reason)
    history(name)
    text = f"{name}: version {after} is champion again (before: {before})"
    announce("rolled-back", (name, after), f"{text}, by {who}: {reason}", because="person", links=_page(name, after))
    return text


def _page(name: str, version: int) -> dict[str, str]:
    return {"version": tracker().model_url(name, version)}


def _still(name: str, alias: str, version: int | None) -> None:
    """ServiceError when the alias moved while its version was read."""
    if (stands := tracker().version_by_alias(name, alias)) != version:
        raise ServiceError(f"{name}@{alias} was version {version} and is {stands} now: somebody else moves it. Run again.")


def history(name: str) -> None:
    """Every change of the champion of `name` as a table artifact."""
    rows = [vars(move) for move in tracker().moves(name)]
    slug = artifact_key(name)
    create_table_artifact(rows, key=f"opsd-{slug}-champions", description=f"Every change of the champion of {name}")
