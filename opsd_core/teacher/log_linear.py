"""Log-linear teachers: log T = log_softmax(sum_i c_i l_i) over members, each with weights and a context of its own.

l_i = log-probabilities (N, V) of member i over the full vocabulary, at the teacher's temperature times the loss temperature, with
merged end tokens where these are merged: neither logits (their normalisers would cancel) nor truncated. c_i = coefficients.

    all c_i > 0            a geometric mixture: what one member rules out is out
    some c_i < 0           T is led away from these members, within two bounds, both at p = 1e-10:
                           - a member with c_i < 0 counts as giving every token at least 1e-10, so one token gains at most
                             23 |c_i| nats from it;
                           - a token to which every member with c_i > 0 gives less than 1e-10 gains nothing: it keeps
                             sum_{c_i > 0} c_i l_i. What all that are followed exclude does not become likely.
    sum_i c_i              above 0 (a rule of the configuration). 1 keeps the scale: where all members agree, T is what they say.
                           Else T is that to the power of the sum, as with the temperature 1 / sum.
    one member with c = 1  is that member, bit for bit

Named after log-linear (product of experts) pooling; negative coefficients as in contrastive decoding (arXiv:2210.15097), which
masks what its expert gives less than a tenth of its best token. docs/recipes.md: published methods that are such teachers.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from opsd_core.models.policy import Policy
from opsd_core.objective.types import LOG_ZERO
from opsd_core.teacher.teachers import FixedTeacher

EXCLUDED = math.log(1e-10)
"""Nats: below it a member excludes a token, and no member with a negative coefficient is taken to say less."""


def log_linear(members: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """log_softmax(sum_i c_i l_i) of log-probabilities (N, V), with the bounds above; finite, at least LOG_ZERO."""
    if len(members) == 1 and coefficients[0] == 1.0:
        return members[0]
    pairs = list(zip(members, coefficients, strict=True))
    followed = [(logprobs_NV, c) for logprobs_NV, c in pairs if c > 0]
    avoided = [(logprobs_NV, c) for logprobs_NV, c in pairs if c < 0]
    mixed_NV = sum(c * logprobs_NV for logprobs_NV, c in followed)
    if avoided:
        gain_NV = sum(c * logprobs_NV.clamp(min=EXCLUDED) for logprobs_NV, c in avoided)
        best_NV = followed[0][0]
        for logprobs_NV, _ in followed[1:]:
            best_NV = torch.maximum(best_NV, logprobs_NV)
        mixed_NV = mixed_NV + gain_NV.masked_fill(best_NV < EXCLUDED, 0.0)
    return torch.log_softmax(mixed_NV, dim=-1).clamp(min=LOG_ZERO)


class Member(NamedTuple):
    """One l_i."""

    teacher: FixedTeacher
    """A teacher of one policy; the same object where two members share their weights."""
    coefficient: float
    view: int = 0
    """Which of the teacher's prompts it reads."""


class LogLinearTeacher(FixedTeacher):
    """Members mixed by `log_linear`; moves as they move and keeps what they keep."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__(*(member.teacher.policy for member in members))
        self.members = tuple(members)
        self._teachers = list({id(member.teacher): member.teacher for member in members}.values())

    @property
    def views(self) -> tuple[int, ...]:
        """As the members say."""
        return tuple(member.view for member in self.members)

    @property
    def mixes(self) -> bool:
        """Unless it is one member with the coefficient 1."""
        return len(self.members) > 1 or self.members[0].coefficient != 1.0

    def scoring(self, member: int = 0) -> AbstractContextManager:
        """As the member's own teacher: of two members of one model one may have its adapters off."""
        return self.members[member].teacher.scoring()

    def mix(self, members: Sequence[Tensor]) -> Tensor:
        """`log_linear` with the members' coefficients."""
        return log_linear(members, [member.coefficient for member in self.members])

    def update(self, student: Policy) -> None:
        """Each member once."""
        for teacher in self._teachers:
            teacher.update(student)

    def state(self) -> Mapping[str, Tensor]:
        """Of the members, of which one keeps something: all that are averages share one."""
        return {name: tensor for teacher in self._teachers for name, tensor in teacher.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """To the member that keeps something."""
        for teacher in self._teachers:
            if teacher.state():
                teacher.load_state(state)
