"""The teacher's settings: weights x context x transform."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from opsd_core.addresses import NO_SECRET
from opsd_core.config.base import Section
from opsd_core.config.kinds import contexts, teachers
from opsd_core.config.kinds.choices import ATTEMPTS, MIXTURE_WEIGHTS, MIXTURES, described
from opsd_core.config.kinds.contexts import CONTEXT_KINDS, ContextKind
from opsd_core.config.kinds.places import Address, TemplateText
from opsd_core.config.kinds.teachers import MEMBER_WEIGHTS, TEACHER_KINDS, TeacherKind

TeacherWeightsName = Literal[*TEACHER_KINDS]
ContextName = Literal[*CONTEXT_KINDS]
MOVING = "opsd:"
"""Prefix of a source that is looked up in the registry at the beginning of every iteration."""


class TeacherMember(Section):
    """One member of a log-linear teacher: what it does not say is as in the section `teacher`."""

    weights: Literal[*MEMBER_WEIGHTS] | None = Field(None, description="As teacher.weights; null = teacher.weights.")
    context: ContextName | None = Field(None, description="As teacher.context; null = teacher.context.")
    coefficient: float = Field(
        ge=-100, le=100, description="c of c log p; below 0 the teacher is led away from this member. Their sum is above 0."
    )
    source: Address = Field("", description="As teacher.source; empty = teacher.source.", json_schema_extra=NO_SECRET)
    template: TemplateText = Field("", description="As teacher.template; empty = teacher.template.")
    system: TemplateText = Field("", description="As teacher.system; empty = teacher.system.")


class Term(NamedTuple):
    """c l of a teacher log T = log_softmax(sum_i c_i l_i)."""

    teacher: "TeacherConfig"
    """The member as a teacher by itself."""
    coefficient: float = 1.0


class TeacherConfig(Section):
    """Teacher = weights x context x transform; with `members` several of them."""

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
    members: tuple[TeacherMember, ...] = Field(
        (),
        max_length=16,
        description="Log-linear teacher: log T = log_softmax(sum of coefficient * log p) over members, each with weights and a "
        "context of its own; empty = one teacher.",
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
    attempt: Literal[*ATTEMPTS] = Field(
        "right_first",
        description=f"other_attempt: which of the prompt's other completions, those left out by filters included: "
        f"{described(ATTEMPTS)}. Never a wrong one with the same text, nor the thinking of any.",
    )
    only_unsuccessful: bool = Field(
        False,
        description="sibling_success, other_attempt, feedback, majority, peer_*: no context for completions that are right (or "
        "agree) already.",
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
    def silent(self) -> set[str]:
        return {"attempt"} if self.attempt == "right_first" else set()

    @property
    def by_itself(self) -> bool:
        """True without members, and where the kind is no mixture of others."""
        return not (self.members or TEACHER_KINDS[self.weights].members)

    @property
    def terms(self) -> tuple[Term, ...]:
        """What is added up: of equal members one with the sum of their coefficients, none where that is 0."""
        return (Term(self),) if self.by_itself else _merged(self._written())

    @property
    def at_rest(self) -> tuple[Term, ...]:
        """The same before training: what stands only in training is represented by the first policy, which it begins as."""
        resting = [
            Term(term.teacher if TEACHER_KINDS[term.teacher.weights].recordable else term.teacher.of("initial"), term.coefficient)
            for term in self.terms
        ]
        return _merged(resting)

    @property
    def views(self) -> tuple["TeacherConfig", ...]:
        """What is seen: one for each prompt that the members read, as a teacher that sees it by itself."""
        if self.by_itself:
            return (self,)
        found: dict[tuple[str, str, str], TeacherConfig] = {}
        for term in self.terms:
            found.setdefault(term.teacher.seen, term.teacher)
        return tuple(found.values()) or (self,)

    @property
    def seen(self) -> tuple[str, str, str]:
        """What decides the prompt of a teacher by itself."""
        return (self.context, self.user_template, self.system_template) if self.context != "none" else ("none", "", "")

    @property
    def informed(self) -> bool:
        """True when it sees more than the student does."""
        return any(view.context != "none" for view in self.views)

    @property
    def scale(self) -> float:
        """Sum of the coefficients: where all members say the same, T is what they say to this power."""
        return math.fsum(term.coefficient for term in self.terms)

    @property
    def named_sources(self) -> dict[str, str]:
        """The other models that teach, or whose answers a context shows, by the setting that names each."""
        named: dict[str, str] = {}
        for number, term in enumerate(self._written()):
            if TEACHER_KINDS[term.teacher.weights].models == "source":
                own = bool(self.members) and bool(self.members[number].source)
                named.setdefault(term.teacher.source, f"teacher.members[{number}].source" if own else "teacher.source")
        if named:
            return {field: source for source, field in named.items()}
        if self.weights_kind.models == "peers" or self.kind.peers:
            return {f"teacher.peers[{number}]": peer for number, peer in enumerate(self.peers)}
        return {}

    @property
    def sources(self) -> tuple[str, ...]:
        """The other models that teach, or whose answers the context shows."""
        return tuple(self.named_sources.values())

    @property
    def weights_kind(self) -> TeacherKind:
        """Whose weights teach, and what that needs."""
        if not self.members:
            return TEACHER_KINDS[self.weights]
        terms = self.terms
        if len(terms) == 1 and terms[0].coefficient == 1.0:
            return TEACHER_KINDS[terms[0].teacher.weights]
        return teachers.composed([term.teacher.weights for term in terms or self._written()])

    @property
    def kind(self) -> ContextKind:
        """Default texts and needs of the context, of several together."""
        if self.by_itself:
            return CONTEXT_KINDS[self.context]
        views = self.views
        if len(views) == 1:
            return CONTEXT_KINDS[views[0].context]
        return contexts.composed([CONTEXT_KINDS[view.context] for view in views])

    @property
    def weights_name(self) -> str:
        """Whose weights, for messages and tags."""
        return " and ".join(dict.fromkeys(term.teacher.weights for term in self.terms)) if self.members else self.weights

    @property
    def in_words(self) -> str:
        """Weights and context, for a line of text."""
        if self.by_itself:
            return f"{self.weights}, sees {self.context}"
        return " ".join(f"{term.coefficient:+g} ({term.teacher.in_words})" for term in self.terms)

    def of(self, weights: str) -> "TeacherConfig":
        """The same teacher by itself, of other weights."""
        return self.model_copy(update={"weights": weights} | ({} if weights == "external" else {"source": ""}))

    def _written(self) -> tuple[Term, ...]:
        """The members as they are written, each as a teacher by itself."""
        if not self.members:
            names, last = TEACHER_KINDS[self.weights].members, self.trust_region_lambda
            return tuple(Term(self.of(name), c) for name, c in zip(names, (1.0 - last, last), strict=False)) or (Term(self),)
        return tuple(Term(self._alone(member), member.coefficient) for member in self.members)

    def _alone(self, member: TeacherMember) -> "TeacherConfig":
        context = self.context if member.context is None else member.context
        texts = {"template": member.template or self.template, "system": member.system or self.system}
        if context == "none":
            texts = dict.fromkeys(texts, "")
        own = self.model_copy(update={"members": (), "context": context, "source": member.source or self.source} | texts)
        return own.of(self.weights if member.weights is None else member.weights)

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


def _merged(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Equal teachers as one; sums of coefficients are rounded once, so that .1 + .2 + .7 is 1."""
    found: list[tuple[TeacherConfig, list[float]]] = []
    for teacher, coefficient in terms:
        same = next((known for known in found if known[0] == teacher), None)
        if same is None:
            found.append((teacher, [coefficient]))
        else:
            same[1].append(coefficient)
    sums = [Term(teacher, math.fsum(coefficients)) for teacher, coefficients in found]
    return tuple(term for term in sums if term.coefficient != 0.0)
