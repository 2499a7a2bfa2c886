"""Rules between settings, checked before any work."""

from collections.abc import Callable, Iterator

from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.kinds.choices import ENTRY_BOUNDS
from opsd_core.config.rules.addresses import ADDRESS_RULES
from opsd_core.config.rules.engines import ENGINE_RULES
from opsd_core.config.rules.environments import ENVIRONMENT_RULES
from opsd_core.config.rules.freshness import FRESHNESS_RULES
from opsd_core.config.rules.groups import GROUP_RULES
from opsd_core.config.rules.objective import OBJECTIVE_RULES
from opsd_core.config.rules.selection import SELECTION_RULES, scheduled_violations
from opsd_core.config.rules.teacher import TEACHER_RULES, null_configuration
from opsd_core.config.rules.templates import TEMPLATE_RULES


def _recorded_entries_suffice(config: CampaignSettings) -> str | None:
    distillation, least = config.distillation, config.distillation.kind.least_top_k
    if distillation.records_targets and distillation.top_k < least:
        return (
            f"distillation.divergence={distillation.divergence} on distillation.top_k={distillation.top_k} recorded teacher "
            f"entries sees almost nothing of the student's distribution. Use top_k >= {least} (64 is sensible) or targets=online."
        )
    return None


def _near_limit_beta(config: CampaignSettings) -> str | None:
    beta, divergence = config.distillation.beta, config.distillation.divergence
    nearest = 0.01 if config.distillation.normalise_beta else 0.05
    if config.distillation.kind.weak_near_limits and (0.0 < beta < nearest or 1.0 - nearest < beta < 1.0):
        return (
            f"distillation.beta={beta}: distillation.divergence={divergence} goes to 0 near its limits, so this trains about "
            f"{1 / max(min(beta, 1 - beta), 1e-9):.0f} times more weakly than beta={round(beta)}. "
            "Use 0 (forward KL), 1 (reverse KL), a value in [0.05, 0.95], or one in [0.01, 0.99] with "
            "distillation.normalise_beta=true."
        )
    return None


def _prompt_budget(config: CampaignSettings) -> str | None:
    if config.execution.microbatch_tokens < config.rollout.max_completion_length:
        return (
            f"execution.microbatch_tokens={config.execution.microbatch_tokens} is below "
            f"rollout.max_completion_length={config.rollout.max_completion_length}: not even one completion fits."
        )
    return None


def _tokens_are_left_to_count(config: CampaignSettings) -> str | None:
    skipped, longest = config.distillation.skip_first_tokens, config.rollout.max_completion_length
    field = "rollout.max_completion_length"
    if 0 < config.curriculum.length_start < longest:
        longest, field = config.curriculum.length_start, "curriculum.length_start"
    if skipped >= longest:
        return (
            f"distillation.skip_first_tokens={skipped} leaves out every token of a completion, which has at most {field}="
            f"{longest}: nothing would be learned. Lower distillation.skip_first_tokens."
        )
    return None


def _split_leaves_training_items(config: CampaignSettings) -> str | None:
    held_out = config.data.validation_fraction + config.data.test_fraction
    if held_out >= 0.95:
        return f"data.validation_fraction + data.test_fraction = {held_out:.2f} leaves no items to train on; keep it below 0.95."
    return None


def _top_k_side_was_recorded(config: CampaignSettings) -> str | None:
    distillation = config.distillation
    if distillation.targets == "recorded" and distillation.top_k_of in ("student", "union"):
        return (
            f"distillation.top_k_of={distillation.top_k_of} with distillation.targets=recorded: only the teacher's "
            "largest entries are stored, the student's are unknown until training. Use top_k_of=teacher, or targets=online."
        )
    return None


def _sampled_tail_is_of_reverse_kl(config: CampaignSettings) -> str | None:
    distillation = config.distillation
    if distillation.tail != "sampled" or distillation.teacher_free:
        return None
    if not distillation.kind.sampled_tail:
        return (
            f"distillation.tail=sampled with distillation.divergence={distillation.divergence}: only of reverse KL is the mean "
            "over the policy's own tokens the sum over the vocabulary. Use divergence=reverse_kl, or tail=bucket."
        )
    if config.rollout.on_policy_fraction < 1.0:
        return (
            f"distillation.tail=sampled with rollout.on_policy_fraction={config.rollout.on_policy_fraction}: the tokens of a "
            "reference were not sampled, so they stand for nothing. Set on_policy_fraction=1, or tail=bucket."
        )
    return None


def _sampled_token_has_no_entries(config: CampaignSettings) -> str | None:
    distillation = config.distillation
    if distillation.kind.sampled_only and distillation.bound in ENTRY_BOUNDS:
        return (
            f"distillation.bound={distillation.bound} clips the summands over the vocabulary, but distillation.divergence="
            f"{distillation.divergence} has only one. Use bound=ratio_clip, which clips the advantage, or token_reweight."
        )
    return None


RULES: tuple[Callable[[CampaignSettings], str | None], ...] = (
    *ADDRESS_RULES,
    *TEMPLATE_RULES,
    *TEACHER_RULES,
    _recorded_entries_suffice,
    _near_limit_beta,
    _prompt_budget,
    _tokens_are_left_to_count,
    _split_leaves_training_items,
    _top_k_side_was_recorded,
    _sampled_tail_is_of_reverse_kl,
    _sampled_token_has_no_entries,
    *ENGINE_RULES,
    *ENVIRONMENT_RULES,
    *OBJECTIVE_RULES,
    *FRESHNESS_RULES,
    *SELECTION_RULES,
    *GROUP_RULES,
)


def violations(config: CampaignSettings) -> Iterator[str]:
    """The reasons why this combination of settings is refused."""
    for rule in RULES:
        if reason := rule(config):
            yield reason
    yield from scheduled_violations(config, RULES, may_end_in=null_configuration)


def check_rules(config: CampaignSettings) -> None:
    """Raise ValueError with every violated rule at once (pydantic reports it as a validation error)."""
    if reasons := list(violations(config)):
        raise ValueError(" | ".join(reasons))
