"""The teacher's settings: weights x context x transform."""

from typing import Literal

from pydantic import Field

from opsd_core.addresses import NO_SECRET
from opsd_core.config.base import Section
from opsd_core.config.kinds.choices import MIXTURE_WEIGHTS, MIXTURES, described
from opsd_core.config.kinds.contexts import CONTEXT_KINDS, ContextKind
from opsd_core.config.kinds.places import Address, TemplateText
from opsd_core.config.kinds.teachers import TEACHER_KINDS, TeacherKind

TeacherWeightsName = Literal[*TEACHER_KINDS]
ContextName = Literal[*CONTEXT_KINDS]
MOVING = "opsd:"
"""Prefix of a source that is looked up in the registry at the beginning of every iteration."""


class TeacherConfig(Section):
    """Teacher = weights x context x transform."""

    weights: TeacherWeightsName = Field(
        "initial",
        description="Which weights teach: "
        + described({name: kind.meaning for name, kind in TEACHER_KINDS.items()})
        + ".",
    )
    ema_decay: float = Field(
        0.99, ge=0, lt=1, description="weights=ema: teacher <- decay * teacher + (1 - decay) * policy, each step."
    )
    trust_region_lambda: float = Field(
        0.05, gt=0, lt=1, description="weights=trust_region: logits = (1 - lambda) * initial + lambda * student."
    )
    source: Address = Field(
        "",
        description="weights=external: the other model, as in model.source, same tokenizer and vocabulary; opsd:NAME@champion = "
        "that registered model's champion, looked up in every iteration.",
        json_schema_extra=NO_SECRET,
    )
    peers: tuple[Address, ...] = Field(
        (),
        json_schema_extra={"items": {"type": "string", **NO_SECRET}},
        description="weights=peers: two or more models, as in teacher.source, whose distributions are mixed. peer_success, "
        "peer_failure: one or more models whose greedy answers are shown, whatever the weights (external: its source's).",
    )
    peer_filter: Literal["off", "solved"] = Field(
        "off",
        description="external, peers: solved = at each prompt those models teach whose greedy answer to the student's prompt "
        "is right; completions of prompts that none solves are left out.",
    )
    mixture: Literal[*MIXTURES] = Field("arithmetic", description=f"weights=peers: {described(MIXTURES)}.")
    mixture_weights: Literal[*MIXTURE_WEIGHTS] = Field(
        "uniform", description=f"weights=peers: {described(MIXTURE_WEIGHTS)}."
    )
    context: ContextName = Field(
        "reference", description="What the teacher alone sees; docs/algorithm.md has the list. shuffled_reference is a control."
    )
    reference: Literal["solution", "answer"] = Field(
        "answer", description="What contexts made from a reference show: its answer or its worked solution."
    )
    context_fraction: float = Field(
        0.5, gt=0, le=1, description="hint, partial: share of the reference shown, cut at sentences or words."
    )
    instruction: str = Field("", description="instruction, concise: what the teacher is told; empty = concise's default.")
    min_agreement: float = Field(
        0.5, gt=0, le=1, description="majority: least share of a prompt's completions that give the same answer."
    )
    only_unsuccessful: bool = Field(
        False,
        description="sibling_success, feedback, majority, peer_*: no context for completions that are right (or agree) already.",
    )
    missing_context: Literal["drop", "student_prompt"] = Field(
        "drop",
        description="Completions for which there is no context: leave them out, with the reason, or let the teacher see "
        "the student's prompt.",
    )
    template: TemplateText = Field(
        "", description="The user message the teacher sees when it has a context; empty = the context's."
    )
    system: TemplateText = Field(
        "", description="System message the teacher sees when it has a context; empty = the context's or prompts.system."
    )
    temperature: float = Field(1.0, gt=0, le=10, description="Divides the teacher's logits: <1 sharpens the target.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass of the target that is kept and renormalised; 1 = all.")
    top_k: int = Field(0, ge=0, description="Tokens of the target that are kept and renormalised; 0 = all.")
    student_noise: float = Field(
        0.0,
        ge=0,
        le=100,
        description="alpha of uniform noise on the student's embeddings in training, alpha / sqrt(length * size); 0 = none.",
    )
    require_privilege_gain: bool = Field(
        True,
        description="Refuse to train when a context that shows the reference does not raise its likelihood under the teacher.",
    )

    @property
    def sources(self) -> tuple[str, ...]:
        """The other models that teach, or whose answers the context shows."""
        if self.weights_kind.models == "source":
            return (self.source,)
        return self.peers if self.weights_kind.models == "peers" or self.kind.peers else ()

    @property
    def weights_kind(self) -> TeacherKind:
        """Whose weights teach, and what that needs."""
        return TEACHER_KINDS[self.weights]

    @property
    def kind(self) -> ContextKind:
        """Default texts and needs of the context."""
        return CONTEXT_KINDS[self.context]

    @property
    def user_template(self) -> str:
        """The template in force: the configured one or the context's."""
        return self.template or self.kind.template

    @property
    def system_template(self) -> str:
        """The system template in force; "" = prompts.system."""
        return self.system or self.kind.system

    @property
    def truncates(self) -> bool:
        """True when the target loses entries."""
        return self.top_p < 1.0 or self.top_k > 0
