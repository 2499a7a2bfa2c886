"""Rules between settings, checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from opsd_core.config.rules_selection import SELECTION_RULES, scheduled_violations

if TYPE_CHECKING:
    from opsd_core.config.campaign import CampaignConfig


def _null_configuration(config: CampaignConfig) -> str | None:
    teacher = config.teacher
    no_asymmetry = teacher.context == "none" and teacher.temperature == 1.0
    if no_asymmetry and not config.control:
        return (
            f"teacher.context=none with teacher.temperature=1.0 and teacher.weights={teacher.weights}: the teacher is the "
            "student itself (or only an anchor to older weights), so the loss and its gradient are 0 and nothing can be "
            "learned. Give the teacher an advantage (teacher.context=reference) or another temperature; "
            "to run this as a control arm set control=true."
        )
    return None


def _shuffled_is_a_control(config: CampaignConfig) -> str | None:
    if config.teacher.context == "shuffled_reference" and not config.control:
        return (
            "teacher.context=shuffled_reference shows the teacher another item's answer; it measures the effect of the "
            "format alone. Set control=true to run it as a control arm."
        )
    return None


def _reference_needs_labels(config: CampaignConfig) -> str | None:
    teacher, columns = config.teacher, config.data.columns
    generated = ":" in config.data.source and not config.data.source.startswith("s3://")
    if teacher.context == "none" or generated:
        return None
    if not getattr(columns, teacher.reference):
        return (
            f"teacher.context={teacher.context} shows the {teacher.reference}, but data.columns.{teacher.reference} is "
            f"empty. Name the column, or set teacher.reference to the one the dataset has."
        )
    return None


def _live_needs_online(config: CampaignConfig) -> str | None:
    if config.teacher.weights in ("live", "ema") and config.distillation.targets == "recorded":
        return (
            f"teacher.weights={config.teacher.weights} changes at every optimiser step, but distillation.targets=recorded "
            "stores the teacher's distribution once per iteration. Set distillation.targets=online."
        )
    return None


def _recorded_reverse_kl(config: CampaignConfig) -> str | None:
    if (
        config.distillation.targets == "recorded"
        and config.distillation.divergence == "reverse_kl"
        and config.distillation.top_k < 8
    ):
        return (
            f"distillation.divergence=reverse_kl on distillation.top_k={config.distillation.top_k} recorded teacher entries "
            "sees almost nothing of the student's distribution. Use top_k >= 8 (64 is sensible) or targets=online."
        )
    return None


def _near_limit_beta(config: CampaignConfig) -> str | None:
    beta = config.distillation.beta
    nearest = 0.01 if config.distillation.normalise_beta else 0.05
    if config.distillation.divergence == "jsd" and (0.0 < beta < nearest or 1.0 - nearest < beta < 1.0):
        return (
            f"distillation.beta={beta}: the generalised JSD goes to 0 near its limits, so this trains about "
            f"{1 / max(min(beta, 1 - beta), 1e-9):.0f} times more weakly than beta={round(beta)}. "
            "Use 0 (forward KL), 1 (reverse KL), a value in [0.05, 0.95], or one in [0.01, 0.99] with "
            "distillation.normalise_beta=true."
        )
    return None


def _prompt_budget(config: CampaignConfig) -> str | None:
    if config.optimizer.microbatch_tokens < config.rollout.max_completion_length:
        return (
            f"optimizer.microbatch_tokens={config.optimizer.microbatch_tokens} is below "
            f"rollout.max_completion_length={config.rollout.max_completion_length}: not even one completion fits."
        )
    return None


def _split_leaves_training_items(config: CampaignConfig) -> str | None:
    held_out = config.data.validation_fraction + config.data.test_fraction
    if held_out >= 0.95:
        return f"data.validation_fraction + data.test_fraction = {held_out:.2f} leaves no items to train on; keep it below 0.95."
    return None


def _top_k_side_was_recorded(config: CampaignConfig) -> str | None:
    distillation = config.distillation
    if distillation.targets == "recorded" and distillation.top_k_of in ("student", "union"):
        return (
            f"distillation.top_k_of={distillation.top_k_of} with distillation.targets=recorded: only the teacher's "
            "largest entries are stored, the student's are unknown until training. Use top_k_of=teacher, or targets=online."
        )
    return None


def _sampled_token_has_no_entries(config: CampaignConfig) -> str | None:
    distillation = config.distillation
    if distillation.divergence == "sampled_token" and distillation.bound == "entry_clip":
        return (
            "distillation.bound=entry_clip clips the summands over the vocabulary, but distillation.divergence="
            "sampled_token has only one. Use bound=ratio_clip, which clips the advantage, or token_reweight."
        )
    return None


RULES: tuple[Callable[[CampaignConfig], str | None], ...] = (
    _null_configuration,
    _shuffled_is_a_control,
    _reference_needs_labels,
    _live_needs_online,
    _recorded_reverse_kl,
    _near_limit_beta,
    _prompt_budget,
    _split_leaves_training_items,
    _top_k_side_was_recorded,
    _sampled_token_has_no_entries,
    *SELECTION_RULES,
)


def violations(config: CampaignConfig) -> Iterator[str]:
    """The reasons why this combination of settings is refused."""
    for rule in RULES:
        if reason := rule(config):
            yield reason
    yield from scheduled_violations(config, RULES, may_end_in=_null_configuration)


def check_rules(config: CampaignConfig) -> None:
    """Raise ValueError with every violated rule at once (pydantic reports it as a validation error)."""
    if reasons := list(violations(config)):
        raise ValueError(" | ".join(reasons))
