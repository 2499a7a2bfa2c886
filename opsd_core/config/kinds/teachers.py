"""The kinds of teacher weights, the class of each and what it needs: data that configuration rules and teachers share."""

from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple


class TeacherKind(NamedTuple):
    """One kind of teacher weights: whose they are, and what it needs."""

    teacher: str
    """Its class, below `opsd_core`: how it is made, and what state it keeps."""
    meaning: str
    """What teaches, in a few words."""
    models: Literal["initial", "champion", "source", "peers"] = "initial"
    """Whose stored weights it is made of: the first policy's, the champion's, or the models that teacher.source or
    teacher.peers names."""
    moves: bool = False
    """Changes at every optimiser step, so that no target can be recorded before training."""
    adapters: bool = False
    """Is the student's own model without its adapters: needs adapters, and stands only while training."""
    is_student: bool = False
    """Is the policy itself, as it is now: without a context nothing is left to learn, not even an anchor."""
    is_initial: bool = False
    """Is the campaign's first policy, so that the distance to it is the drift."""
    keeps: str = ""
    """What it keeps from step to step and from iteration to iteration, held by the trainer's checkpoints; empty = nothing."""
    reads: tuple[str, ...] = ()
    """Settings of `teacher` that only kinds like this one read."""
    warning: str = ""
    """What its user should know before training."""
    members: tuple[str, ...] = ()
    """Is no kind of its own but a log-linear mixture of these, the last with the share teacher.trust_region_lambda."""

    @property
    def recordable(self) -> bool:
        """True when its targets can be computed before training."""
        return not (self.moves or self.adapters)

    @property
    def other_models(self) -> bool:
        """True when models teach that are not of this campaign."""
        return self.models in ("source", "peers")

    @property
    def several(self) -> bool:
        """True when the configuration names two or more models, whose distributions become one."""
        return self.models == "peers"


LOG_LINEAR = "teacher.log_linear.LogLinearTeacher"

TEACHER_KINDS: dict[str, TeacherKind] = {
    "initial": TeacherKind("teacher.teachers.FixedTeacher", "the campaign's first policy", is_initial=True),
    "previous": TeacherKind("teacher.teachers.FixedTeacher", "the last promoted one", models="champion"),
    "ema": TeacherKind(
        "teacher.teachers.EmaTeacher",
        "an average of the student",
        moves=True,
        keeps="the average",
        reads=("ema_decay",),
    ),
    "live": TeacherKind(
        "teacher.teachers.LiveTeacher",
        "the student itself",
        moves=True,
        is_student=True,
        warning="it moves with the student and often diverges; prefer initial or ema.",
    ),
    "adapter_off": TeacherKind(
        "teacher.teachers.AdapterOffTeacher", "the student without its adapters", adapters=True, is_initial=True
    ),
    "trust_region": TeacherKind(
        LOG_LINEAR,
        "a mix of the first policy and the student",
        moves=True,
        reads=("trust_region_lambda",),
        members=("initial", "live"),
    ),
    "external": TeacherKind("teacher.teachers.FixedTeacher", "another model", models="source"),
    "peers": TeacherKind(
        "teacher.teachers.PeersTeacher",
        "several other models, mixed",
        models="peers",
        reads=("mixture", "mixture_weights"),
    ),
}
MEMBER_WEIGHTS = tuple(name for name, kind in TEACHER_KINDS.items() if not (kind.members or kind.several))
"""Kinds that are one model, of which a log-linear mixture is made."""


def composed(names: Collection[str]) -> TeacherKind:
    """What a log-linear mixture of members of these kinds is and needs: of one kind the same but for its class."""
    kinds = [TEACHER_KINDS[name] for name in dict.fromkeys(names)]

    def joined(texts: Iterable[str]) -> str:
        return " and ".join(dict.fromkeys(filter(None, texts)))

    return TeacherKind(
        LOG_LINEAR,
        joined(kind.meaning for kind in kinds),
        models="source" if any(kind.other_models for kind in kinds) else kinds[0].models,
        moves=any(kind.moves for kind in kinds),
        adapters=any(kind.adapters for kind in kinds),
        is_student=all(kind.is_student for kind in kinds),
        is_initial=all(kind.is_initial for kind in kinds),
        keeps=joined(kind.keeps for kind in kinds),
        reads=tuple(dict.fromkeys(setting for kind in kinds for setting in kind.reads)),
        warning=joined(kind.warning for kind in kinds),
    )
