"""Teacher weights: whose parameters produce the targets.

initial   the campaign's first policy, never changed
previous  the last promoted policy (the champion), fixed during an iteration
ema       teacher <- decay * teacher + (1 - decay) * policy after each optimiser step, in float32
live      the policy's own current weights, without gradient
"""

from typing import Protocol

import torch

from opsd_core.models import Policy, effective_weights


class TeacherWeights(Protocol):
    """What the trainer asks of a teacher."""

    policy: Policy

    def update(self, student: Policy) -> None:
        """Called after each optimiser step that was applied."""


class FixedTeacher:
    """initial and previous: weights that do not change."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def update(self, student: Policy) -> None:
        """Nothing to do."""


class LiveTeacher:
    """live: the student itself, evaluated without gradient."""

    def __init__(self, student: Policy) -> None:
        self.policy = student

    def update(self, student: Policy) -> None:
        """Nothing to do: the teacher is the student."""


class EmaTeacher:
    """ema: an exponential moving average of effective weights, so that it is exact under LoRA too.

    After n steps from theta_0: decay**n * theta_0 + (1 - decay) * sum_i decay**(n - i) * theta_i.
    The shadow is float32: in bfloat16 a small (1 - decay) would round away.
    """

    def __init__(self, shadow: Policy, decay: float) -> None:
        self.policy = Policy(shadow.model.float(), shadow.tokenizer)
        self.decay = decay

    @torch.no_grad()
    def update(self, student: Policy) -> None:
        """One step of the average over floating-point weights; buffers and tied copies follow by name."""
        shadow = self.policy.causal_lm.state_dict()
        seen: set[int] = set()
        for name, value in effective_weights(student.model):
            target = shadow[name]
            if target.data_ptr() in seen or not target.is_floating_point():
                continue
            seen.add(target.data_ptr())
            target.lerp_(value.to(target.dtype), 1.0 - self.decay)
