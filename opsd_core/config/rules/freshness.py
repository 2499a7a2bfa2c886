"""Rules of completions that are older than the policy that learns from them: rollout.refresh and execution.overlap."""

from collections.abc import Callable

from opsd_core.config.campaign import CampaignSettings

Rule = Callable[[CampaignSettings], str | None]


def _older(config: CampaignSettings) -> str:
    """The setting by which completions of an older policy are learned from; empty where there is none."""
    if config.rollout.refresh != "every_iteration":
        return f"rollout.refresh={config.rollout.refresh}"
    return "execution.overlap=true" if config.execution.overlap else ""


def _older_samples_are_weighed(config: CampaignSettings) -> str | None:
    """Forward KL is a mean over the teacher's distribution at whatever prefix stands there; these are not (arXiv:2606.24143)."""
    older, weighed = _older(config), config.token_weights.importance_correction
    if not older or weighed or config.control or not config.distillation.kind.student_weighted:
        return None
    return (
        f"{older} with distillation.divergence={config.distillation.divergence}, a mean over what the policy itself would "
        "write, and token_weights.importance_correction=false: completions of an older policy would count as if the present one "
        "had written them, and it would be trained towards another objective. Set token_weights.importance_correction=true, or "
        "distillation.divergence=forward_kl, a mean over the teacher's distribution."
    )


def _age_is_allowed(config: CampaignSettings) -> str | None:
    allowed, last = config.token_weights.max_staleness, config.iterations - 1
    if config.rollout.refresh == "initial" and allowed < last:
        return (
            f"rollout.refresh=initial over iterations={config.iterations} learns from completions up to {last} iterations "
            f"old, but token_weights.max_staleness={allowed}. Set token_weights.max_staleness={last}, fewer iterations, or "
            "rollout.refresh=overlap, which samples anew when they are worn out or too old."
        )
    if _older(config) and allowed == 0 and last:
        return (
            f"{_older(config)} with token_weights.max_staleness=0, which allows completions of the present policy alone: none "
            "could be used. Set token_weights.max_staleness to 1 or more."
        )
    return None


def _one_way_at_a_time(config: CampaignSettings) -> str | None:
    if config.execution.overlap and config.rollout.refresh != "every_iteration":
        return (
            f"execution.overlap=true with rollout.refresh={config.rollout.refresh}: whether completions are kept is known only "
            "when an iteration has trained, so there is nothing to sample meanwhile. Set execution.overlap=false, or "
            "rollout.refresh=every_iteration."
        )
    return None


def _the_first_completions_stay(config: CampaignSettings) -> str | None:
    if config.rollout.refresh != "initial":
        return None
    drawn = "all iterations learn from the completions of the first one"
    if scheduled := [path for path in config.curriculum.schedules if path.startswith("rollout.")]:
        return f"curriculum.schedules[{scheduled[0]!r}] with rollout.refresh=initial: {drawn}. Use rollout.refresh=overlap."
    if config.curriculum.tracks_pass_rates:
        return (
            f"curriculum.sampling={config.curriculum.sampling} and curriculum.length_start={config.curriculum.length_start} with "
            f"rollout.refresh=initial: {drawn}, so neither prompts nor lengths could follow. Use rollout.refresh=overlap."
        )
    if config.alarms.remedy == "raise_temperature":
        return (
            f"alarms.remedy=raise_temperature with rollout.refresh=initial: {drawn}, so the remedy would change nothing. Use "
            "another alarms.remedy, or rollout.refresh=overlap."
        )
    return None


FRESHNESS_RULES: tuple[Rule, ...] = (
    _older_samples_are_weighed,
    _age_is_allowed,
    _one_way_at_a_time,
    _the_first_completions_stay,
)
"""Each gives the reason of a refusal, or None."""
