"""Teacher weights: whose parameters produce the targets, how such a teacher is made, and what it keeps.

initial       the campaign's first policy, never changed
previous      the last promoted policy (the champion), fixed during an iteration
ema           teacher <- decay * teacher + (1 - decay) * policy after each optimiser step, in float32
live          the policy's own current weights, without gradient
adapter_off   the policy without its LoRA adapters: the first policy, without a second copy
external      another model with the same vocabulary
peers         several of them, mixed

A teacher has one or more member policies. With several, `mix` makes one distribution of theirs. A log-linear teacher is made of
these (`opsd_core.teacher.log_linear`).
`opsd_core.teacher.kinds` is the table of them.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, Self

import torch
from peft import PeftModel
from torch import Tensor

from opsd_core.config import TeacherConfig
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.adapters import effective_weights, splits_tie, untie
from opsd_core.models.policy import Policy
from opsd_core.models.whole import fill, here, part_of
from opsd_core.teacher.mixtures import MIXTURES, WEIGHTINGS
from opsd_core.teacher.parts import Handle, Parts


class TeacherWeights(Protocol):
    """What scoring and the trainer ask of a teacher."""

    policies: tuple[Policy, ...]
    """Of each member."""

    @property
    def views(self) -> tuple[int, ...]:
        """Which of the teacher's prompts each member reads."""

    @property
    def mixes(self) -> bool:
        """Whether `mix` does anything."""

    @property
    def policy(self) -> Policy:
        """The first member."""

    def scoring(self, member: int = 0) -> AbstractContextManager:
        """Surrounds forward passes of a member."""

    def mix(self, members: Sequence[Tensor]) -> Tensor:
        """One distribution (N, V) of the members' log-probabilities."""

    def update(self, student: Policy) -> None:
        """Called after each optimiser step that was applied."""

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold to resume bit for bit; the same names and shapes at every step."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""


class FixedTeacher:
    """initial, previous and external: weights that do not change."""

    def __init__(self, *policies: Policy) -> None:
        self.policies = policies

    @classmethod
    def build(cls, parts: Parts[Handle]) -> Self:
        """The teacher of an iteration. ModelError when a part that it needs is missing."""
        return cls(*parts.fixed())

    @classmethod
    def identity(cls, settings: TeacherConfig) -> dict[str, Any]:
        """What decides its output besides its models. Kinds whose models say it all have nothing to add."""
        if cls is FixedTeacher:
            return {}
        return {"kind": {name: getattr(settings, name) for name in ("weights", *settings.weights_kind.reads)}}

    @property
    def policy(self) -> Policy:
        return self.policies[0]

    @property
    def views(self) -> tuple[int, ...]:
        """All read the one prompt that there is."""
        return (0,) * len(self.policies)

    @property
    def mixes(self) -> bool:
        """With several members."""
        return len(self.policies) > 1

    def scoring(self, member: int = 0) -> AbstractContextManager:
        """Nothing to prepare."""
        return nullcontext()

    def mix(self, members: Sequence[Tensor]) -> Tensor:
        """The one member's own distribution."""
        return members[0]

    def update(self, student: Policy) -> None:
        """Nothing to do."""

    def state(self) -> Mapping[str, Tensor]:
        """Nothing is kept."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy into the tensors of `state()`, by name."""
        for name, tensor in self.state().items():
            fill(tensor, state[name])


class NoTeacher(FixedTeacher):
    """cross_entropy and opsa: nobody is asked."""


class LiveTeacher(FixedTeacher):
    """live: the student itself, evaluated without gradient."""

    @classmethod
    def build(cls, parts: Parts[Handle]) -> Self:
        """Of the student."""
        return cls(parts.trained())


class AdapterOffTeacher(FixedTeacher):
    """adapter_off: the student's own model with its adapters disabled. ConfigError when it has none."""

    def __init__(self, student: Policy) -> None:
        if not isinstance(student.model, PeftModel):
            raise ConfigError("teacher.weights=adapter_off needs adapters to switch off; set model.lora.rank above 0.")
        super().__init__(student)

    @classmethod
    def build(cls, parts: Parts[Handle]) -> Self:
        """Of the student."""
        return cls(parts.trained())

    def scoring(self, member: int = 0) -> AbstractContextManager:
        """Adapters are off inside and on again afterwards."""
        return self.policy.model.disable_adapter()


class PeersTeacher(FixedTeacher):
    """peers: several fixed models; `mixture` and `weighting` as in opsd_core.teacher.mixtures."""

    def __init__(self, policies: Sequence[Policy], mixture: str, weighting: str) -> None:
        super().__init__(*policies)
        self.mixture, self.weighting = MIXTURES[mixture], WEIGHTINGS[weighting]

    @classmethod
    def build(cls, parts: Parts[Handle]) -> Self:
        """Of the other models."""
        return cls(parts.fixed(), parts.settings.mixture, parts.settings.mixture_weights)

    @classmethod
    def identity(cls, settings: TeacherConfig) -> dict[str, Any]:
        """How the models are mixed."""
        return {"mixture": [settings.mixture, settings.mixture_weights]}

    def mix(self, members: Sequence[Tensor]) -> Tensor:
        """The configured mixture with the configured weights."""
        return self.mixture(members, self.weighting(members))


class EmaTeacher(FixedTeacher):
    """ema: an exponential moving average of effective weights, so that it is exact under LoRA too.

    After n steps from theta_0: decay**n * theta_0 + (1 - decay) * sum_i decay**(n - i) * theta_i.
    The shadow is float32: in bfloat16 a small (1 - decay) would round away.
    """

    def __init__(self, shadow: Policy, decay: float) -> None:
        super().__init__(Policy(shadow.model.float(), shadow.tokenizer, shadow.chosen_paths))
        self.decay = decay

    @classmethod
    def build(cls, parts: Parts[Handle]) -> Self:
        """Begins as the first policy."""
        return cls(parts.copy_of(parts.models.initial), parts.settings.ema_decay)

    @torch.no_grad()
    def update(self, student: Policy) -> None:
        """One step of the average over floating-point weights; buffers and tied copies follow by name."""
        if splits_tie(student.model):
            untie(self.policy.causal_lm)
        shadow = self.policy.causal_lm.state_dict()
        seen: set[int] = set()
        for name, value in effective_weights(student.model):
            target = shadow[name]
            place = here(target).data_ptr()
            if place in seen or not target.is_floating_point():
                continue
            seen.update({place} - {0})  # 0 = nothing of it is here
            target.lerp_(part_of(value.to(target.dtype), target), 1.0 - self.decay)

    def state(self) -> Mapping[str, Tensor]:
        """The whole shadow, by parameter name."""
        return self.policy.causal_lm.state_dict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy into the shadow; where it has one matrix for two that differ in `state`, it gets two."""
        names: dict[int | str, str] = {}
        for name, tensor in self.state().items():
            first = names.setdefault(here(tensor).data_ptr() or name, name)
            if not torch.equal(state[first], state[name]):
                untie(self.policy.causal_lm)
        super().load_state(state)


def check_same_vocabulary(student: Policy, other: Policy, name: str) -> None:
    """Raise ModelError unless `other` (called `name` in messages) has the student's tokens and head size.

    Distributions over different vocabularies cannot be compared, and padding of the head counts as vocabulary. End tokens may
    differ (`opsd_core.teacher.ends`), other special tokens may not.
    """
    if student.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise ModelError(
            f"{name} has another tokenizer than the policy ({len(other.tokenizer)} and {len(student.tokenizer)} tokens): "
            "its distributions are over other tokens. Choose a teacher of the same model family."
        )
    special = set(student.tokenizer.all_special_ids) ^ set(other.tokenizer.all_special_ids)
    if strange := sorted(special - set(student.eos_ids) - set(other.eos_ids)):
        raise ModelError(
            f"{name} has the policy's tokens, but only one of the two tokenizers treats {strange} "
            f"({student.tokenizer.convert_ids_to_tokens(strange[0])!r}) as special. They belong to different models; choose a "
            "teacher of the same family, or give it the policy's tokenizer files."
        )
    sizes = [len(policy.head.weight_VH) for policy in (other, student)]
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"{name} has an output head of {sizes[0]} entries, the policy one of {sizes[1]}. The tokens agree, the padding "
            "does not; choose a teacher of the same size family or resize its head."
        )
