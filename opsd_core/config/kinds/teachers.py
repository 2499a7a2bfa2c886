"""The kinds of teacher weights, the class of each and what it needs: data that configuration rules and teachers share."""

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
        "teacher.teachers.TrustRegionTeacher",
        "a mix of the first policy and the student",
        moves=True,
        reads=("trust_region_lambda",),
    ),
    "external": TeacherKind("teacher.teachers.FixedTeacher", "another model", models="source"),
    "peers": TeacherKind(
        "teacher.teachers.PeersTeacher",
        "several other models, mixed",
        models="peers",
        reads=("mixture", "mixture_weights"),
    ),
}
