"""Stored rollouts as the input of another distillation: which ones, and under which configuration."""

import json
from typing import Any

from pydantic import ValidationError

from opsd_core.config import CampaignConfig, deep_merge
from opsd_core.config.moved import with_present_names
from opsd_core.config.refusals import as_settings, explained, shown
from opsd_core.digest import digest
from opsd_core.errors import ConfigError, IntegrityError
from tasks.context import lineage, local, store, tracker
from tasks.refs import PolicyRef, PromptSet, Record, Ref, ShardRef
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.storage.artifacts import describe

SECTIONS = ("teacher", "distillation", "token_weights", "optimizer", "filter")
"""What a replay may change: everything else decided how the rollouts were sampled or how they are judged."""


class StoredIteration(Record):
    """The rollouts of one iteration of an earlier campaign."""

    iteration: int
    version: int
    rollouts: list[str]
    ages: list[int]
    """Iterations between the policy that sampled a shard and the one that learned from it."""
    prompts: PromptSet


class ReplaySource(Record):
    """What is replayed."""

    name: str
    campaign: str
    record: Ref
    data: Ref
    iterations: list[StoredIteration]


@task(name="find-rollouts", **STAGE)
def find_rollouts(name: str, iterations: list[int] | None, campaign: str | None) -> ReplaySource:
    """The stored rollouts of a campaign of model `name`: its newest one, all iterations, unless told otherwise.

    Raises ConfigError naming the iterations that exist when one is asked for that does not.
    """
    made = [entry for entry in tracker().versions(name) if {"opsd.lineage", "opsd.rollouts"} & entry.tags.keys()]
    versions, numbers = [entry.tags for entry in made], [entry.version for entry in made]
    campaigns = [tags["opsd.campaign"] for tags in versions]
    wanted_campaign = campaign or (campaigns[-1] if campaigns else "")
    found = {
        int(tags["opsd.iteration"]): (number, tags)
        for number, tags in zip(numbers, versions, strict=True)
        if tags["opsd.campaign"] == wanted_campaign
    }
    wanted = sorted(found) if iterations is None else sorted(set(iterations))
    missing = [number for number in wanted if number not in found]
    if missing or not wanted:
        raise ConfigError(
            f"model {name!r} has no stored rollouts of iterations {missing or 'any'} of campaign {wanted_campaign or '(none)'}; "
            f"there are iterations {sorted(found)} and campaigns {sorted(set(campaigns))}. Correct iterations or campaign."
        )
    known = lineage(found[wanted[0]][1])
    stored = [_stored(number, *found[number]) for number in wanted]
    return ReplaySource(
        name=name,
        campaign=wanted_campaign,
        record=Ref(uri=known["config"]),
        data=Ref(uri=known["data"]),
        iterations=stored,
    )


def _stored(iteration: int, version: int, tags: dict[str, str]) -> StoredIteration:
    known = lineage(tags)
    uris = known["rollouts"]
    ages = [iteration - sampled_in for sampled_in in known.get("sampled_in", [iteration] * len(uris))]
    files = describe(store(), uris[0]).identity["prompts"]
    keys = [info.key for info in store().list("prompts/") if f"/{files}/" in info.key]
    if not keys:
        raise IntegrityError(f"the prompts of {uris[0]} are not in the store any more; that iteration cannot be replayed.")
    prompts = describe(store(), store().uri("/".join(keys[0].split("/")[:3])))
    prompt_set = PromptSet(uri=prompts.uri, **prompts.summary["counts"])
    return StoredIteration(iteration=iteration, version=version, rollouts=uris, ages=ages, prompts=prompt_set)


def replay_config(source: ReplaySource, overrides: dict[str, Any]) -> CampaignConfig:
    """The earlier campaign's configuration under another objective, in a candidate line of its own.

    Raises ConfigError when `overrides` touches what decided the rollouts, or is refused as a configuration.
    """
    other = sorted(set(as_settings(overrides)) - set(SECTIONS))
    if other:
        names = ", ".join(name if name.isprintable() else shown(name) for name in other)
        raise ConfigError(
            f"a replay cannot change {names[:300]}: its rollouts are already sampled. Sections of "
            f"overrides: {', '.join(SECTIONS)}. For anything else run opsd/iterate."
        )
    numbers = [stored.iteration for stored in source.iterations]
    mark = digest({"campaign": source.campaign, "iterations": numbers, "overrides": overrides})[:8]
    own = {"name": f"{source.name[:40]}-replay-{mark}", "iterations": len(numbers), "promotion": {"mode": "manual"}}
    try:
        stored = with_present_names(stored_settings((local(source.record) / "config.json").read_bytes()))
        return CampaignConfig.model_validate(deep_merge(deep_merge(stored, overrides), own))
    except ValidationError as error:
        raise ConfigError(f"the replay of {source.name} is refused: {explained(error, CampaignConfig)}") from error


def stored_settings(content: bytes) -> dict[str, Any]:
    """The settings that a campaign stored. IntegrityError when the bytes are no object of JSON."""
    try:
        return as_settings(json.loads(content), "the stored config.json")
    except (ValueError, RecursionError) as error:
        why = f"config.json of the stored campaign cannot be read: {error!s:.300}"
        raise IntegrityError(f"{why} Name another campaign.") from error


def check_start(source: ReplaySource, initial: PolicyRef) -> None:
    """ConfigError unless `initial` are the weights that the earlier campaign started from."""
    before = describe(store(), source.record.uri).identity["initial"]
    if initial.digest != before:
        raise ConfigError(
            f"model.source now gives other weights ({initial.digest:.12}) than campaign {source.campaign} started from "
            f"({before:.12}). Replay needs the same start; put model.source back to what it was."
        )


def stored_shards(stored: StoredIteration, position: int) -> list[ShardRef]:
    """The rollouts as shards of iteration `position` of the replay. IntegrityError when one is no longer whole."""
    shards = []
    for index, (uri, age) in enumerate(zip(stored.rollouts, stored.ages, strict=True)):
        artifact = describe(store(), uri)
        counts = {name: artifact.summary[name] for name in ("num_rollouts", "num_tokens")}
        shards.append(
            ShardRef(iteration=position - age, shard=index, uri=artifact.uri, digest=artifact.digest, seconds=0.0, **counts)
        )
    return shards
