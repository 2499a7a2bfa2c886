"""The champion that a campaign starts from: the registry's when it first began, for good.

Three records name it: the campaign's artifact, a tag of its MLflow run, and the verdict on its first candidate. When the
artifact is lost and made again, the others decide, never today's champion, which may be the campaign's own candidate.
"""

from collections.abc import Callable

from opsd_core.config import CampaignConfig, ModelConfig
from opsd_core.errors import IntegrityError, ModelError
from tasks.champion.served import keep_served, served
from tasks.context import lineage, settings, store, tracker
from tasks.refs import PolicyRef, Ref
from tasks.storage.artifacts import verify

Accept = Callable[[PolicyRef, ModelConfig], PolicyRef]
"""Finds the paths of a policy that was registered without them."""
CHAMPION_AT_START = "opsd.champion_at_start"
"""Tag of a campaign's run: the version that was champion when it began."""


def ensure_champion(config: CampaignConfig, initial: PolicyRef, run_id: str) -> int:
    """Number of the registry's champion, the first version kept whole; without one the starting weights are registered as it."""
    registry = tracker()
    registry.ensure_model(config.name)
    number = registry.version_by_alias(config.name, "champion")
    if number is not None:
        keep_served(initial, config)
        return number
    tags = {"opsd.model_uri": initial.uri, "opsd.model_digest": initial.digest, "opsd.role": "initial"}
    tags["opsd.acceptance"] = initial.acceptance
    verify(store(), initial.uri, settings().cache)
    source = served(initial, config).uri
    number = registry.register(config.name, source, run_id, tags, "Starting weights of the first campaign.")
    registry.promote(
        config.name, number, why="first version: the starting weights", who="opsd", expected_champion=None
    )
    return number


def champion_at_start(
    config: CampaignConfig, initial: PolicyRef, campaign_id: str, run_id: str, accept: Accept
) -> PolicyRef:
    """The champion when the campaign of this id first began; settled now when that is now.

    IntegrityError when it began before and no record of it is left, ModelError when opsd did not register that version.
    """
    registry, name = tracker(), config.name

    def first() -> str:
        if (judged := _judged_against(name, campaign_id)) is not None:
            return judged
        return str(ensure_champion(config, initial, run_id))

    champion = policy_of(config, int(registry.settle(run_id, CHAMPION_AT_START, first)), accept)
    if champion.digest == initial.digest:  # its weights are the start; its optimiser and adapters are another campaign's
        return champion.model_copy(update={"state": None})
    return champion


def _judged_against(name: str, campaign_id: str) -> str | None:
    """The version that the campaign's first candidate was compared with; None when it has no candidate yet."""
    mine = [entry for entry in tracker().versions(name) if entry.tags.get("opsd.campaign") == campaign_id]
    first = next((entry for entry in mine if entry.tags.get("opsd.iteration") == "0"), None)
    if first is not None and "gate.champion" in first.tags:
        return first.tags["gate.champion"]
    if mine:
        raise IntegrityError(
            f"campaign {campaign_id} of {name} has version {mine[0].version}, but the record of the champion that it began with "
            f"is lost (its artifact in the store, and the tag {CHAMPION_AT_START} of its MLflow run). Set that tag to the "
            "version's number, or start a new campaign: another seed or name."
        )
    return None


def policy_of(config: CampaignConfig, number: int, accept: Accept) -> PolicyRef:
    """A registered version as a policy. ModelError when it was not registered by opsd."""
    tags = tracker().version_tags(config.name, number)
    if "opsd.model_uri" not in tags:
        raise ModelError(
            f"models:/{config.name}@champion (version {number}) was not registered by opsd: tag opsd.model_uri is "
            f"missing. Choose another campaign name (name={config.name!r}) or remove the alias."
        )
    state = Ref(uri=tags["opsd.state_uri"]) if tags.get("opsd.state_uri") else None
    policy = PolicyRef(uri=tags["opsd.model_uri"], digest=tags["opsd.model_digest"], state=state, version=number)
    known = lineage(tags).get("acceptance")
    return policy.model_copy(update={"acceptance": known}) if known else accept(policy, config.model)
