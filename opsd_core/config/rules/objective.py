"""Rules of objectives without a teacher and of reference completions."""

from collections.abc import Callable

from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.kinds.divergences import TEACHER_FREE
from opsd_core.config.rules.teacher import generated_source

Rule = Callable[[CampaignSettings], str | None]


def _own_samples_need_a_selection(config: CampaignSettings) -> str | None:
    """E_{y ~ S}[grad log S(y)] = 0: cross-entropy on one's own samples has no direction unless something selects."""
    rollout, chosen, kind = config.rollout, config.filter, config.distillation.kind
    if not kind.teacher_free or kind.advantages or rollout.on_policy_fraction == 0.0 or config.control:
        return None
    divergence = f"distillation.divergence={config.distillation.divergence}"
    if chosen.route == "incorrect_only" or chosen.majority_route == "disagreeing":
        return (
            f"{divergence} with filter.route={chosen.route}, filter.majority_route="
            f"{chosen.majority_route}: it would raise the likelihood of the completions that are wrong. Use correct_only or "
            "agreeing, a teacher, or control=true."
        )
    right = chosen.route == "correct_only" or chosen.keep_per_prompt == "shortest_right"
    selected = right or (chosen.min_score or 0.0) > 0.0 or chosen.majority_route == "agreeing"
    reshaped = rollout.temperature != config.distillation.temperature or rollout.top_p < 1.0 or rollout.top_k > 0
    if selected or reshaped or rollout.on_policy_fraction < 1.0:
        return None
    return (
        f"{divergence} on the policy's own samples, all of them: its gradient is 0 in expectation, so "
        "the policy only drifts at random. Keep the right ones (filter.route=correct_only, filter.min_score, or "
        "filter.majority_route=agreeing without labels), train on references (rollout.on_policy_fraction below 1), sample "
        "another distribution than the one that is trained (rollout.temperature, top_p, top_k), or set control=true."
    )


def _opsa_reads_samples_only(config: CampaignSettings) -> str | None:
    divergence, fraction = config.distillation.divergence, config.rollout.on_policy_fraction
    if config.distillation.kind.advantages and fraction < 1.0:
        return (
            f"distillation.divergence={divergence} with rollout.on_policy_fraction={fraction}: it makes "
            "unlikely tokens of a completion less likely, and in a reference those are what the policy should learn. Set "
            "rollout.on_policy_fraction=1."
        )
    return None


def _no_teacher_is_asked(config: CampaignSettings) -> str | None:
    if not config.distillation.teacher_free:
        return None
    divergence, weights = config.distillation.divergence, config.token_weights
    if config.filter.teacher_probe != "off":
        return (
            f"filter.teacher_probe={config.filter.teacher_probe} with distillation.divergence={divergence}, which has no "
            "teacher to probe. Set filter.teacher_probe=off."
        )
    if weights.entropy != "uniform" and weights.entropy_of == "teacher":
        return (
            f"weights.entropy={weights.entropy} of the teacher with distillation.divergence={divergence}, which has no "
            "teacher. Set token_weights.entropy_of=student."
        )
    return None


def _references_have_a_column(config: CampaignSettings) -> str | None:
    columns = config.data.columns
    if config.uses_references and not generated_source(config) and not (columns.answer or columns.solution):
        return (
            f"rollout.on_policy_fraction={config.rollout.on_policy_fraction} and distillation.gold_share="
            f"{config.distillation.gold_share} need reference texts, but data.columns.solution and data.columns.answer are "
            "empty. Name one, or set on_policy_fraction=1 and gold_share=0."
        )
    return None


def _references_have_no_siblings(config: CampaignSettings) -> str | None:
    teacher, fraction = config.teacher, config.rollout.on_policy_fraction
    shown = teacher.kind.rollouts and teacher.missing_context == "drop"
    if fraction < 1.0 and shown and not config.distillation.teacher_free:
        return (
            f"rollout.on_policy_fraction={fraction} with teacher.context={teacher.context}: that context is made from "
            "completions, which a prompt with a reference may lack, and such references would be dropped. "
            "Set teacher.missing_context=student_prompt, another context, or rollout.on_policy_fraction=1."
        )
    return None


def _rehearsal_has_prompts(config: CampaignSettings) -> str | None:
    rehearsal = config.rehearsal
    if rehearsal.share and not rehearsal.data:
        return (
            f"rehearsal.share={rehearsal.share} without rehearsal.data: there is nothing to rehearse. Name a source of prompts, "
            'as in {"rehearsal": {"data": [{"source": "prompts.jsonl"}]}}, or set rehearsal.share=0.'
        )
    if rehearsal.data and not rehearsal.share:
        return (
            f"rehearsal.data names {len(rehearsal.data)} sources with rehearsal.share=0, so that none of them would be used. "
            "Set rehearsal.share above 0, .25 to begin with."
        )
    if rehearsal.num_prompts < len(rehearsal.data):
        return (
            f"rehearsal.num_prompts={rehearsal.num_prompts} for {len(rehearsal.data)} sources: some would give none. Raise it."
        )
    return None


def _some_completions_are_left(config: CampaignSettings) -> str | None:
    size, gold, kept = config.optimizer.batch_size, config.distillation.gold_share, config.rehearsal.share
    beside = sum(max(1, round(share * size)) for share in (gold, kept) if share)
    if gold and kept and beside >= size:
        return (
            f"distillation.gold_share={gold} and rehearsal.share={kept} take {beside} of optimizer.batch_size={size} completions "
            "and leave none of the policy's own. Lower one of them, or raise optimizer.batch_size."
        )
    return None


def _every_rank_has_a_completion(config: CampaignSettings) -> str | None:
    ranks, size = config.execution.ranks, config.optimizer.batch_size
    shares = (config.distillation.gold_share, config.rehearsal.share)
    own = size - sum(max(1, round(share * size)) for share in shares if share)
    if ranks > max(own, 1):
        return (
            f"execution.ranks={ranks} processes cannot share the {max(own, 1)} completions of the policy's own in an optimiser "
            f"step (optimizer.batch_size={size}): each needs at least one. Lower execution.ranks, or raise optimizer.batch_size."
        )
    return None


def _average_lives_in_every_iteration(config: CampaignSettings) -> str | None:
    scheduled = config.curriculum.schedules.get("distillation.divergence", ())
    weights, keeps = config.teacher.weights_name, config.teacher.weights_kind.keeps
    if keeps and set(scheduled) & set(TEACHER_FREE):
        return (
            f"curriculum.schedules['distillation.divergence']={list(scheduled)} with teacher.weights={weights}: an "
            f"iteration without a teacher would neither update nor keep {keeps}. Use teacher.weights=initial or previous."
        )
    return None


OBJECTIVE_RULES: tuple[Rule, ...] = (
    _own_samples_need_a_selection,
    _opsa_reads_samples_only,
    _no_teacher_is_asked,
    _references_have_a_column,
    _references_have_no_siblings,
    _rehearsal_has_prompts,
    _some_completions_are_left,
    _every_rank_has_a_completion,
    _average_lives_in_every_iteration,
)
