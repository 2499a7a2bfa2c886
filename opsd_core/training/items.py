"""One completion as the trainer gets it."""

from dataclasses import dataclass

import numpy as np

from opsd_core.records.targets import Target


@dataclass(frozen=True)
class TrainingItem:
    """One kept rollout with what the teacher sees and, for recorded targets, what it said."""

    prompt_ids: list[int]
    teacher_prompt_ids: list[int]
    completion_ids: list[int]
    rollout_logprobs_T: np.ndarray
    """log pi_old of the sampled tokens, at `importance.old_temperature`; nan where nothing was sampled (a reference)."""
    weights_T: np.ndarray
    target: Target | None = None
    key: tuple[str, int] = ("", 0)
    """Identity within an iteration; the student's noise follows from it."""
    rollout_entropy_T: np.ndarray | None = None
    """Nats, of the policy that sampled; opsa needs it."""
    advantages_T: np.ndarray | None = None
    """A of -A log S(y), without a teacher; None = 1."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the longer side; what a forward pass has to hold."""
        return max(len(self.prompt_ids), len(self.teacher_prompt_ids)) + len(self.completion_ids)
