"""Transforms of the teacher's distribution: mixing several, truncating one.

l_i = log-probabilities of member i, w_i = its weight, H_i = its entropy
M = members, N = tokens, V = vocabulary
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opsd_core.config import TeacherConfig
from opsd_core.objective.types import LOG_ZERO


@dataclass(frozen=True)
class Transform:
    """What happens to the teacher's distribution before it is a target."""

    temperature: float = 1.0
    """Divides every member's logits: the teacher's temperature times the loss temperature."""
    top_p: float = 1.0
    top_k: int = 0

    @classmethod
    def of(cls, teacher: TeacherConfig, loss_temperature: float) -> "Transform":
        """The configured transform."""
        return cls(teacher.temperature * loss_temperature, teacher.top_p, teacher.top_k)

    @property
    def truncates(self) -> bool:
        return self.top_p < 1.0 or self.top_k > 0


def arithmetic(members: Sequence[Tensor], weights_MN: Tensor) -> Tensor:
    """log sum_i w_i exp(l_i): what any member finds likely stays likely."""
    return torch.logsumexp(torch.stack(list(members)) + weights_MN.log()[..., None], dim=0)


def geometric(members: Sequence[Tensor], weights_MN: Tensor) -> Tensor:
    """log_softmax(sum_i w_i l_i): what one member rules out is out. With fixed weights it mixes logits."""
    return torch.log_softmax((torch.stack(list(members)) * weights_MN[..., None]).sum(dim=0), dim=-1)


MIXTURES: dict[str, Callable[[Sequence[Tensor], Tensor], Tensor]] = {"arithmetic": arithmetic, "geometric": geometric}


def uniform_weights(members: Sequence[Tensor]) -> Tensor:
    """w_i = 1 / M at every position (M, N)."""
    return members[0].new_full((len(members), len(members[0])), 1.0 / len(members))


def confidence_weights(members: Sequence[Tensor]) -> Tensor:
    """w_i = softmax_i(-H_i) at every position (M, N): the surer a member, the more it counts."""
    entropies_MN = torch.stack([-torch.special.xlogy(member.exp(), member.exp()).sum(dim=-1) for member in members])
    return torch.softmax(-entropies_MN, dim=0)


WEIGHTINGS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "uniform": uniform_weights,
    "confidence": confidence_weights,
}


def truncate(logprobs_NV: Tensor, top_p: float, top_k: int) -> Tensor:
    """Keep the top_k largest entries and of these the smallest set with mass >= top_p; renormalise, LOG_ZERO elsewhere.

    The largest entry always stays; entries that tie with the last kept one stay too.
    """
    if top_p >= 1.0 and (top_k <= 0 or top_k >= logprobs_NV.shape[-1]):
        return logprobs_NV
    candidates = top_k if 0 < top_k < logprobs_NV.shape[-1] else logprobs_NV.shape[-1]
    sorted_NK = logprobs_NV.topk(candidates, dim=-1).values
    probs_NK = torch.softmax(sorted_NK, dim=-1)
    kept_N = (probs_NK.cumsum(dim=-1) - probs_NK < top_p).sum(dim=-1).clamp(min=1)
    smallest_N1 = sorted_NK.gather(1, kept_N[:, None] - 1)
    kept_NV = logprobs_NV.masked_fill(logprobs_NV < smallest_N1, -torch.inf)
    return torch.log_softmax(kept_NV, dim=-1).clamp(min=LOG_ZERO)
