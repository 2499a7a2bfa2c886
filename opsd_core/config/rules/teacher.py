"""Rules between the teacher's settings and the others."""

import math
import re
from collections.abc import Callable
from functools import wraps

from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.config.rules.members import members_make_a_distribution


def generated_source(config: CampaignSettings) -> bool:
    """True for data sets that are made here and bring question and answer of their own."""
    return config.data.kind.generated


def null_configuration(config: CampaignSettings) -> str | None:
    """Refuse a teacher that is the student: nothing that only one side has."""
    teacher = config.teacher
    asymmetric = (
        teacher.informed
        or not math.isclose(teacher.scale, 1.0)
        or teacher.temperature != 1.0
        or teacher.truncates
        or teacher.student_noise > 0.0
        or teacher.weights_kind.other_models
    )
    if asymmetric or config.control or config.distillation.teacher_free:
        return None
    return (
        f"teacher.context=none with teacher.temperature=1.0, no truncation, no student_noise and teacher.weights="
        f"{teacher.weights_name}: the teacher is the student itself (or only an anchor to older weights), so the loss and its "
        "gradient are 0 and nothing can be learned. Give the teacher an advantage (teacher.context=reference), another "
        "temperature or another model; to run this as a control arm set control=true."
    )


def _shuffled_is_a_control(config: CampaignSettings) -> str | None:
    followed = [term.teacher for term in config.teacher.terms if term.coefficient > 0]
    controls = [teacher.context for teacher in followed if teacher.kind.control]
    if controls and not config.control:
        return (
            f"teacher.context={controls[0]} shows the teacher another answer than the item's; it measures the effect of "
            "the format alone. Set control=true to run it as a control arm, or give it a negative coefficient in teacher.members."
        )
    return None


def _thinking_is_another_mode(config: CampaignSettings) -> str | None:
    prompts = config.prompts
    if config.teacher.context == "thinking" and prompts.teacher_thinking == prompts.student_thinking:
        return (
            f"teacher.context=thinking shows the teacher nothing but the student's own message, and prompts.teacher_thinking="
            f"{str(prompts.teacher_thinking).lower()} is the student's mode too: the two sides would read the same. Set "
            "prompts.teacher_thinking=true, or teacher.context=none."
        )
    return None


def _reference_needs_its_column(config: CampaignSettings) -> str | None:
    teacher, columns = config.teacher, config.data.columns
    if not teacher.kind.reference:
        return None
    if generated_source(config):
        if teacher.reference == "solution":
            return (
                f"teacher.reference=solution, but data.source={config.data.source} makes questions and answers only. "
                "Set teacher.reference=answer."
            )
        return None
    if not getattr(columns, teacher.reference):
        return (
            f"teacher.context={teacher.context} shows the {teacher.reference}, but data.columns.{teacher.reference} is "
            f"empty. Name the column, or set teacher.reference to the one the dataset has, or use a context without labels "
            "(majority, concise, instruction)."
        )
    return None


def _grades_need_answers(config: CampaignSettings) -> str | None:
    if config.teacher.kind.grades and not config.data.columns.answer and not generated_source(config):
        return (
            f"teacher.context={config.teacher.context} needs to know which completions are right, but data.columns.answer "
            "is empty, so nothing is graded. Name the column, or use teacher.context=majority."
        )
    return None


def _unlabelled_cannot_promote(config: CampaignSettings) -> str | None:
    unlabelled = not config.data.columns.answer and not generated_source(config)
    if unlabelled and config.promotion.mode != "manual":
        return (
            f"data.columns.answer is empty and promotion.mode={config.promotion.mode}: without answers the gate cannot "
            "measure accuracy and would never know a better model."
            " Set promotion.mode=manual and promote by hand, or use labelled data."
        )
    return None


def _siblings_need_a_group(config: CampaignSettings) -> str | None:
    if config.teacher.kind.siblings and config.rollout.group_size < 2:
        return (
            f"teacher.context={config.teacher.context} shows another completion of the same prompt, but "
            "rollout.group_size=1 samples one only. Use 8, or at least 2."
        )
    return None


def _moving_teacher_needs_online(config: CampaignSettings) -> str | None:
    weights, kind = config.teacher.weights, config.teacher.weights_kind
    if kind.recordable or config.distillation.targets == "online":
        return None
    if kind.adapters:
        return (
            f"teacher.weights={weights} saves a second copy while training, but distillation.targets=recorded scores "
            "before it. Set distillation.targets=online, or teacher.weights=initial, which is the same model."
        )
    return (
        f"teacher.weights={weights} changes at every optimiser step, but distillation.targets=recorded "
        "stores the teacher's distribution once per iteration. Set distillation.targets=online."
    )


def _adapter_off_needs_adapters(config: CampaignSettings) -> str | None:
    if config.teacher.weights_kind.adapters and config.model.lora.rank == 0:
        return (
            f"teacher.weights={config.teacher.weights} with model.lora.rank=0: all weights are trained, so there is no adapter "
            "to switch off. Set model.lora.rank above 0, or teacher.weights=initial."
        )
    return None


def _other_models_are_named(config: CampaignSettings) -> str | None:
    teacher, kind = config.teacher, config.teacher.weights_kind
    if kind.models == "source" and not teacher.source:
        return f"teacher.weights={teacher.weights} needs teacher.source, the model that teaches."
    if kind.several and len(teacher.peers) < 2:
        return (
            f"teacher.weights={teacher.weights} needs two or more models in teacher.peers, not {len(teacher.peers)}. "
            "For one use teacher.weights=external and teacher.source."
        )
    return None


def _named_models_are_used(config: CampaignSettings) -> str | None:
    teacher = config.teacher
    if teacher.source and teacher.weights_kind.models != "source":
        return f"teacher.source={teacher.source!r} has no effect with teacher.weights={teacher.weights_name}; set external."
    if teacher.peers and teacher.sources != teacher.peers:
        return (
            f"teacher.peers has no effect with teacher.weights={teacher.weights_name} and teacher.context={teacher.context}; set "
            "teacher.weights=peers, or teacher.context=peer_success or peer_failure with weights other than external."
        )
    return None


def _peers_answers_need_peers(config: CampaignSettings) -> str | None:
    teacher = config.teacher
    if teacher.kind.peers and not teacher.sources:
        return (
            f"teacher.context={teacher.context} shows what another model answered, but teacher.peers is empty. Name one or more "
            "models there (opsd:NAME@champion is another campaign's champion), or use sibling_success or feedback, which show "
            "the policy's own completions."
        )
    return None


def _peers_are_gated_before_they_teach(config: CampaignSettings) -> str | None:
    teacher = config.teacher
    if teacher.peer_filter == "off":
        return None
    if not teacher.weights_kind.other_models:
        return f"teacher.peer_filter=solved asks other models, but teacher.weights={teacher.weights_name}. Set external or peers."
    if config.distillation.targets == "online":
        return (
            "teacher.peer_filter=solved with distillation.targets=online: who teaches differs from prompt to prompt, which is "
            "settled when targets are recorded. Set distillation.targets=recorded."
        )
    if not config.data.columns.answer and not generated_source(config):
        return "teacher.peer_filter=solved needs right answers, but data.columns.answer is empty. Name the column or set it off."
    return None


def _truncated_target_forbids_reverse(config: CampaignSettings) -> str | None:
    teacher, distillation = config.teacher, config.distillation
    if teacher.truncates and distillation.kind.infinite_at_zero:
        return (
            f"teacher.top_p={teacher.top_p}, teacher.top_k={teacher.top_k} give some tokens probability 0, and "
            f"distillation.divergence={distillation.divergence} is infinite where the student has mass there. "
            "Use forward_kl, jsd or skew_kl, or no truncation."
        )
    return None


def _instruction_is_given(config: CampaignSettings) -> str | None:
    teacher = config.teacher
    if "instruction" in teacher.kind.reads and not (teacher.instruction or teacher.kind.instruction):
        return f"teacher.context={teacher.context} needs teacher.instruction, the text that only the teacher is told."
    return None


def _instruction_is_shown(config: CampaignSettings) -> str | None:
    teacher = config.teacher
    if teacher.instruction and "instruction" not in teacher.kind.reads:
        showing = " and ".join(name for name, kind in CONTEXT_KINDS.items() if "instruction" in kind.reads)
        return (
            f"teacher.instruction has no effect with teacher.context={teacher.context}: only {showing} show "
            "it. Put the text into teacher.template, or change the context."
        )
    return None


_PRIVILEGED = ("privileged_context", "answer", "solution")
_EXPRESSION = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
"""What Jinja evaluates; the text between is only text, whatever words it has."""


def _template_shows_the_context(config: CampaignSettings) -> str | None:
    teacher = config.teacher
    used = set(re.findall(r"\w+", " ".join(_EXPRESSION.findall(teacher.user_template + teacher.system_template))))
    if teacher.context != "none" and used.isdisjoint((*_PRIVILEGED, *teacher.kind.variables)):
        return (
            f"teacher.template={teacher.user_template!r:.80} never mentions privileged_context, so the teacher would not see "
            f"its {teacher.context}. Put {{{{ privileged_context }}}} into teacher.template or teacher.system."
        )
    return None


def _noise_spoils_the_importance_ratio(config: CampaignSettings) -> str | None:
    if config.teacher.student_noise > 0 and config.token_weights.importance_correction:
        return (
            f"teacher.student_noise={config.teacher.student_noise} with token_weights.importance_correction=true: the "
            "ratio would compare a noisy policy with the clean one that sampled. Turn one of them off."
        )
    return None


Rule = Callable[[CampaignSettings], str | None]


def _of_a_teacher(rule: Rule) -> Rule:
    """The rule where a teacher teaches; without one its settings are not read."""
    return wraps(rule)(lambda config: None if config.distillation.teacher_free else rule(config))


def _of_each(rule: Rule) -> Rule:
    """The rule of a teacher for every member of a log-linear one."""

    def checked(config: CampaignSettings) -> str | None:
        if not config.teacher.members:
            return rule(config)
        alone = (config.model_copy(update={"teacher": term.teacher}) for term in config.teacher.terms)
        reason = next(filter(None, map(rule, alone)), None)
        return f"teacher.members: {reason}" if reason else None

    return wraps(rule)(checked)


_OF_EACH = (
    _thinking_is_another_mode,
    _reference_needs_its_column,
    _grades_need_answers,
    _siblings_need_a_group,
    _moving_teacher_needs_online,
    _adapter_off_needs_adapters,
    _other_models_are_named,
    _instruction_is_given,
    _template_shows_the_context,
)
_OF_ALL = (
    members_make_a_distribution,
    _shuffled_is_a_control,
    _named_models_are_used,
    _peers_answers_need_peers,
    _peers_are_gated_before_they_teach,
    _truncated_target_forbids_reverse,
    _instruction_is_shown,
)
TEACHER_RULES: tuple[Rule, ...] = (
    null_configuration,
    _unlabelled_cannot_promote,
    _noise_spoils_the_importance_ratio,
    *map(_of_a_teacher, (*map(_of_each, _OF_EACH), *_OF_ALL)),
)
