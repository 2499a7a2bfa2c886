"""Hidden states and heads of the objective's arms: the same numbers in every process, made with torch alone.

N = tokens, V = vocabulary, H = hidden size
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.peers.arm import Spec
from benchmarks.peers.clock import Cost, cost_of


class Sides(NamedTuple):
    """Student and teacher, with a head each; the student's are leaves."""

    hidden_NH: Tensor
    weight_VH: Tensor
    teacher_NH: Tensor
    teacher_VH: Tensor


def sides(tokens: int, vocabulary: int, hidden: int, dtype: str) -> Sides:
    """Random sides whose teacher stands near the student."""
    generator, kind = torch.Generator().manual_seed(0), getattr(torch, dtype)
    student = torch.randn(tokens, hidden, generator=generator)
    teacher = (student + 0.5 * torch.randn(tokens, hidden, generator=generator)).to(kind)
    weight = torch.randn(vocabulary, hidden, generator=generator).mul_(3 / math.sqrt(hidden)).to(kind)
    return Sides(student.to(kind).requires_grad_(), weight.requires_grad_(), teacher, weight.detach().clone())


def measured(spec: Spec, arm: Callable[[Sides], Tensor]) -> tuple[Cost, int, float]:
    """Forward and backward of an arm's summed loss: the second call's cost; the first is small, and wakes the libraries."""

    def step(made: Sides) -> float:
        loss = arm(made)
        if loss.requires_grad:
            (loss / len(made.hidden_NH)).backward()
        return float(loss.detach()) / len(made.hidden_NH)

    tokens, vocabulary, hidden = spec["sizes"]
    step(sides(32, 4096, hidden, spec["dtype"]))
    made = sides(tokens, vocabulary, hidden, spec["dtype"])
    cost = cost_of(lambda: step(made))
    return cost, tokens, cost.result
