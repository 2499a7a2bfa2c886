"""The teacher of an iteration, before and in training: one class per kind of weights.

A new kind is a class (how it is made: `build`; what it keeps: `state`) and a line in `opsd_core.config.kinds.teachers` that
names it, with what the configuration must know of it. docs/extending.md shows one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from opsd_core.config import CampaignConfig
from opsd_core.config.kinds.teachers import TEACHER_KINDS
from opsd_core.config.teacher import Term
from opsd_core.named import named
from opsd_core.teacher.log_linear import LogLinearTeacher, Member
from opsd_core.teacher.parts import Handle, Parts
from opsd_core.teacher.teachers import FixedTeacher, NoTeacher, TeacherWeights

TEACHERS: dict[str, type[FixedTeacher]] = {name: named(kind.teacher) for name, kind in TEACHER_KINDS.items()}


def teacher_in_training(parts: Parts[Handle]) -> TeacherWeights:
    """The teacher that the trainer asks and updates; without one, nobody. ModelError when a part is missing."""
    if parts.config.distillation.teacher_free:
        return NoTeacher()
    return _of_terms(parts, parts.settings.terms, lambda alone: TEACHERS[alone.settings.weights].build(alone))


def teacher_before_training(parts: Parts[Handle]) -> TeacherWeights:
    """The teacher that records targets and is probed, while nothing is trained.

    One that stands only in training, alone or as a member, is represented by the weights it begins with: the first policy's, or
    for a student that teaches itself the policy's as the iteration begins. ModelError when a part is missing.
    """
    kind = parts.settings.weights_kind
    if kind.recordable or parts.config.distillation.teacher_free:
        return teacher_in_training(parts)
    if kind.is_student and (policy := parts.models.policy) is not None:
        return _of_terms(parts, parts.settings.at_rest, lambda alone: FixedTeacher(alone.load(policy)))
    return _of_terms(parts, parts.settings.at_rest, lambda alone: TEACHERS[alone.settings.weights].build(alone))


def _of_terms(
    parts: Parts[Handle], terms: Sequence[Term], make: Callable[[Parts[Handle]], FixedTeacher]
) -> FixedTeacher:
    """A single teacher where it is one term with coefficient 1, else a log-linear one; equal weights are made once."""
    views, made, members = [view.seen for view in parts.settings.views], {}, []
    if len(terms) == 1 and terms[0].coefficient == 1.0 and len(views) == 1:
        return make(parts.of(terms[0].teacher))
    for teacher, coefficient in terms:
        name = (teacher.weights, teacher.source)
        if name not in made:
            made[name] = make(parts.of(teacher))
        members.append(Member(made[name], coefficient, views.index(teacher.seen)))
    return LogLinearTeacher(members)


def teacher_identity(config: CampaignConfig) -> dict[str, Any]:
    """What decides the output of `teacher_before_training` besides models and prompts: a part of its targets' identity."""
    if config.distillation.teacher_free:
        return {}
    terms, views = config.teacher.at_rest, [view.seen for view in config.teacher.views]
    if len(terms) == 1 and terms[0].coefficient == 1.0 and len(views) == 1:
        alone = terms[0].teacher
        return TEACHERS[alone.weights].identity(alone)
    return {"members": [[c, views.index(teacher.seen)] for teacher, c in terms]}
