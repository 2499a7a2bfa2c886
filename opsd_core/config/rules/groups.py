"""Rules of a prompt's several completions: which of them are kept, and until when prompts are asked again."""

from collections.abc import Callable

from opsd_core.config.campaign import CampaignSettings

Rule = Callable[[CampaignSettings], str | None]


def _the_shortest_right_one_is_not_filtered_out(config: CampaignSettings) -> str | None:
    chosen = config.filter
    if chosen.keep_per_prompt == "shortest_right" and chosen.route == "incorrect_only":
        return (
            "filter.keep_per_prompt=shortest_right with filter.route=incorrect_only: the one keeps right completions, the other "
            "wrong ones, so that none would be left. Set filter.route=all, or filter.keep_per_prompt=random."
        )
    return None


def _right_ones_have_a_context(config: CampaignSettings) -> str | None:
    teacher, chosen = config.teacher, config.filter
    only_right = [
        f"filter.{name}={value}"
        for name, value, wanted in (
            ("keep_per_prompt", chosen.keep_per_prompt, "shortest_right"),
            ("route", chosen.route, "correct_only"),
        )
        if value == wanted
    ]
    withheld = teacher.only_unsuccessful and teacher.missing_context == "drop" and config.context_from_rollouts
    graded = any(view.kind.rollouts and view.kind.grades for view in teacher.views)
    if only_right and withheld and graded:
        return (
            f"{only_right[0]} with teacher.only_unsuccessful=true and teacher.missing_context=drop: only right completions are "
            f"trained on, and right ones are left out because they get no {teacher.context}. Set "
            "teacher.only_unsuccessful=false, or teacher.missing_context=student_prompt."
        )
    return None


def _asking_again_may_give_another_answer(config: CampaignSettings) -> str | None:
    rollout = config.rollout
    if rollout.refill.share and rollout.top_k == 1:
        return (
            f"rollout.refill.share={rollout.refill.share} with rollout.top_k=1: sampling that keeps one token gives the same "
            "completion however often a prompt is asked. Set rollout.top_k=0 or above 1, or rollout.refill.share=0."
        )
    return None


def _the_budget_is_enough_for_one_prompt(config: CampaignSettings) -> str | None:
    rollout = config.rollout
    most, group = rollout.refill.max_completions, rollout.refill_group
    if rollout.refill.share and most is not None and most < group:
        return (
            f"rollout.refill.max_completions={most} is below the {group} completions that one prompt is asked for in a round "
            "(rollout.refill.group_size, or rollout.group_size where that is 0): no prompt could be asked again. Raise "
            "rollout.refill.max_completions, or lower rollout.refill.group_size."
        )
    return None


def _rounds_follow_each_other(config: CampaignSettings) -> str | None:
    if config.rollout.refill.share and config.execution.overlap:
        return (
            f"rollout.refill.share={config.rollout.refill.share} with execution.overlap=true: which prompts are asked again is "
            "known when the round before is graded, and completions that are sampled ahead are graded after this iteration has "
            "trained. Set execution.overlap=false, or rollout.refill.share=0; rollout.refresh saves sampling too."
        )
    return None


GROUP_RULES: tuple[Rule, ...] = (
    _the_shortest_right_one_is_not_filtered_out,
    _right_ones_have_a_context,
    _asking_again_may_give_another_answer,
    _the_budget_is_enough_for_one_prompt,
    _rounds_follow_each_other,
)
"""Each gives the reason of a refusal, or None."""
