"""The version that no candidate may fall behind, besides the champion: ten small losses are one large one."""

from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig
from opsd_core.config.guards import GuardConfig
from opsd_core.errors import ConfigError, IntegrityError, OpsdError
from tasks.champion.start import policy_of
from tasks.context import lineage, store, tracker
from tasks.guards import ANCHOR
from tasks.guards.items import guarded
from tasks.loaded import prompt_builder
from tasks.refs import Campaign, GuardItems, PolicyRef
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.weights import accepted
from tasks.storage.artifacts import describe


@task(name="set-anchor", **STAGE)
def set_anchor(campaign: Campaign) -> Campaign:
    """The campaign with its anchor. ConfigError when anchor or champion cannot answer the guards, or not as the policy does.

    Says of every guard whether its items are others than when the champion was measured; they are answered again then.
    """
    config, name = campaign.config, campaign.name
    number, anchor = _number(config, name), None
    if number is not None:
        anchor = campaign.champion if number == campaign.champion.version else policy_of(config, number, accepted)
        tracker().set_version_tags(name, number, {ANCHOR: campaign.id})
    for guard in config.promotion.guards:
        for other, role in ((campaign.champion, "champion"), (anchor, "anchor")):
            if other is not None:
                _check_comparable(config, guard, campaign.initial, other, role)
    for items in campaign.guards:
        _say_changed(campaign, items)
    return campaign.model_copy(update={"anchor": anchor})


def _number(config: CampaignConfig, name: str) -> int | None:
    chosen = config.promotion.anchor
    if chosen == "none":
        return None
    versions = {entry.version: entry for entry in tracker().versions(name)}
    if chosen == "first":
        ours = [number for number, entry in versions.items() if "opsd.model_uri" in entry.tags]
        return min(ours, default=None)
    if chosen not in versions:
        raise ConfigError(
            f"promotion.anchor={chosen}: {name} has no version {chosen}; it has {', '.join(map(str, versions)) or 'none'}. "
            "Choose one of them, first, or none."
        )
    return chosen


def _check_comparable(
    config: CampaignConfig, guard: GuardConfig, initial: PolicyRef, other: PolicyRef, role: str
) -> None:
    """ConfigError when `other` is not stored any more, or reads the guard's items through another tokenizer or template."""
    remedy = "Set promotion.anchor to another version, or to none." if role == "anchor" else "Start a campaign of another name."
    try:
        describe(store(), other.uri)
    except (IntegrityError, ConfigError) as error:
        raise ConfigError(
            f"{guard.field}: the {role}, version {other.version}, is not stored any more, so it cannot answer the guard's items: "
            f"{error} {remedy}"
        ) from error
    answered = guarded(config, guard)
    ours, theirs = prompt_builder(initial, answered), prompt_builder(other, answered)
    try:
        same = ours.student_digest == theirs.student_digest and ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    except OpsdError as error:
        raise ConfigError(
            f"{guard.field}: the {role}, version {other.version}, cannot read its items: {error} {remedy}"
        ) from error
    if not same:
        raise ConfigError(
            f"{guard.field}: the {role}, version {other.version}, has another chat template or vocabulary than the policy, so "
            f"their answers are never compared. {remedy}"
        )


def _say_changed(campaign: Campaign, items: GuardItems) -> None:
    """A warning where the champion answered other items of the same address when it was a candidate itself."""
    version = campaign.champion.version
    known = lineage(tracker().version_tags(campaign.name, version)).get("guards", {}).get(items.guard)
    source = next(guard.data.source for guard in campaign.config.promotion.guards if guard.title == items.guard)
    if known and known["source"] == source and known["items"] != items.items_digest:
        get_run_logger().warning(
            "guard %s: the items of %s changed since version %s was measured (%.12s then, %.12s now); the champion answers the "
            "present ones anew, and numbers of before are not comparable.",
            items.guard, source, version, known["items"], items.items_digest,
        )  # fmt: skip
