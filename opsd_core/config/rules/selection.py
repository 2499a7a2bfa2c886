"""Rules of token weights, filters and curriculum."""

from collections.abc import Callable

from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.schedules import stages
from opsd_core.errors import ConfigError

Rule = Callable[[CampaignSettings], str | None]


def _teacher_entropy_was_recorded(config: CampaignSettings) -> str | None:
    weights = config.token_weights
    if weights.entropy != "uniform" and weights.entropy_of == "teacher" and config.distillation.targets == "online":
        return (
            f"weights.entropy={weights.entropy} of the teacher with distillation.targets=online: weights are fixed before "
            "the step, the teacher's entropy is known only in it. Use distillation.targets=recorded, or "
            "token_weights.entropy_of=student."
        )
    return None


def _votes_need_several_completions(config: CampaignSettings) -> str | None:
    chosen = config.filter
    votes = chosen.min_agreement > 0 or chosen.majority_route != "all"
    if votes and config.rollout.group_size < 2:
        return (
            f"filter.min_agreement={chosen.min_agreement}, filter.majority_route={chosen.majority_route} with "
            f"rollout.group_size={config.rollout.group_size}: one completion always agrees with itself. "
            "Use rollout.group_size >= 2 (8 is sensible)."
        )
    return None


def _gates_need_labels(config: CampaignSettings) -> str | None:
    chosen = config.filter
    needing = {
        "filter.route": chosen.route != "all",
        "filter.min_score": chosen.min_score is not None,
        "filter.keep_per_prompt=shortest_right": chosen.keep_per_prompt == "shortest_right",
        "filter.teacher_probe": chosen.teacher_probe != "off",
        "curriculum.sampling": config.curriculum.sampling != "uniform",
        "rollout.refill": config.rollout.refill.share > 0,
    }
    generated = config.data.kind.generated
    used = [name for name, on in needing.items() if on]
    if used and not generated and not config.data.columns.answer:
        return (
            f"{', '.join(used)} need the right answer, but data.columns.answer is empty. Name the column, or use what "
            "needs no label: filter.min_agreement, filter.majority_route."
        )
    return None


def _probe_needs_a_context(config: CampaignSettings) -> str | None:
    if config.filter.teacher_probe == "gain" and not config.teacher.informed and not config.control:
        return (
            "filter.teacher_probe=gain with teacher.context=none: a teacher that sees nothing more than the student is not "
            "ahead of it, so every prompt would be dropped. Give the teacher a context or set filter.teacher_probe=off."
        )
    return None


def _length_starts_below_its_end(config: CampaignSettings) -> str | None:
    start, end = config.curriculum.length_start, config.rollout.max_completion_length
    if start > end:
        return f"curriculum.length_start={start} exceeds rollout.max_completion_length={end}, up to which the limit grows."
    return None


SELECTION_RULES: tuple[Rule, ...] = (
    _teacher_entropy_was_recorded,
    _votes_need_several_completions,
    _gates_need_labels,
    _probe_needs_a_context,
    _length_starts_below_its_end,
)


def scheduled_violations(config: CampaignSettings, rules: tuple[Rule, ...], may_end_in: Rule) -> list[str]:
    """Reasons why a later stage of the schedules is refused; `may_end_in` is allowed there.

    A context that fades out ends without an advantage by design: what is left anchors the policy to the teacher's weights.
    """
    reasons: dict[str, None] = {}
    try:
        for iteration, stage in stages(config) if config.curriculum.schedules else ():
            for rule in rules:
                fades_out = rule is may_end_in and iteration > 0 and not stage.teacher.weights_kind.is_student
                if not fades_out and (reason := rule(stage)):
                    reasons[f"iteration {iteration}: {reason}"] = None
    except ConfigError as error:
        return [str(error)]
    return list(reasons)
