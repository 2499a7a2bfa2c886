"""The teacher of an iteration, before and in training: one class per kind of weights.

A new kind is a class (how it is made: `build`; what it keeps: `state`) and a line in `opsd_core.config.kinds.teachers` that
names it, with what the configuration must know of it. docs/extending.md shows one.
"""

from typing import Any

from opsd_core.config import CampaignConfig
from opsd_core.config.kinds.teachers import TEACHER_KINDS
from opsd_core.named import named
from opsd_core.teacher.parts import Handle, Parts
from opsd_core.teacher.teachers import FixedTeacher, NoTeacher, TeacherWeights

TEACHERS: dict[str, type[FixedTeacher]] = {name: named(kind.teacher) for name, kind in TEACHER_KINDS.items()}


def teacher_in_training(parts: Parts[Handle]) -> TeacherWeights:
    """The teacher that the trainer asks and updates; without one, nobody. ModelError when a part is missing."""
    if parts.config.distillation.teacher_free:
        return NoTeacher()
    return TEACHERS[parts.settings.weights].build(parts)


def teacher_before_training(parts: Parts[Handle]) -> TeacherWeights:
    """The teacher that records targets and is probed, while nothing is trained.

    One that stands only in training is represented by the weights it begins with: the first policy's, or for a student
    that teaches itself the policy's as the iteration begins. ModelError when a part is missing.
    """
    kind = parts.settings.weights_kind
    if kind.recordable or parts.config.distillation.teacher_free:
        return teacher_in_training(parts)
    if kind.is_student and parts.models.policy is not None:
        return FixedTeacher(parts.load(parts.models.policy))
    return FixedTeacher(*parts.fixed())


def teacher_identity(config: CampaignConfig) -> dict[str, Any]:
    """What decides the output of `teacher_before_training` besides models and prompts: a part of its targets' identity."""
    if config.distillation.teacher_free or not config.teacher.weights_kind.recordable:
        return {}
    return TEACHERS[config.teacher.weights].identity(config.teacher)
