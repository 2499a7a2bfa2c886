"""The objective, forward and backward: opsd's, whole logits, and the bare matrix products."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.arm import Spec, main
from benchmarks.peers.clock import Cost, cost_of
from benchmarks.peers.tensors import Sides, sides
from opsd_core.config.method import DistillationConfig
from opsd_core.objective import Head, HiddenTargets, distillation_loss


def own(made: Sides) -> Tensor:
    """Forward KL over the whole vocabulary, as the trainer calls it."""
    config = DistillationConfig(targets="online", bound="none")
    targets = HiddenTargets(made.teacher_NH, Head(made.teacher_VH))
    ids_N, ones_N = torch.zeros(len(made.hidden_NH), dtype=torch.long), torch.ones(len(made.hidden_NH))
    return distillation_loss(made.hidden_NH, Head(made.weight_VH), targets, ids_N, ones_N, config).loss_sum


def whole(made: Sides) -> Tensor:
    """What trainers commonly write: all logits, in the weights' dtype, then float32."""
    student_NV = torch.log_softmax(functional.linear(made.hidden_NH, made.weight_VH).float(), dim=-1)
    with torch.no_grad():
        teacher_NV = torch.log_softmax(functional.linear(made.teacher_NH, made.teacher_VH).float(), dim=-1)
    return functional.kl_div(student_NV, teacher_NV, reduction="sum", log_target=True)


@torch.no_grad()
def products(made: Sides) -> Tensor:
    """The four products that both need, and nothing between them."""
    logits_NV = made.hidden_NH @ made.weight_VH.T
    _ = (logits_NV @ made.weight_VH, logits_NV.T @ made.hidden_NH)
    torch.mm(made.teacher_NH, made.teacher_VH.T, out=logits_NV)
    return torch.zeros(())


ARMS: dict[str, Callable[[Sides], Tensor]] = {"opsd": own, "whole": whole, "products": products}


def measured(spec: Spec, arm: Callable[[Sides], Tensor]) -> tuple[Cost, int, float]:
    """The second call's cost; the first is of a small size, and wakes the libraries."""

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


if __name__ == "__main__":
    main(lambda spec: measured(spec, ARMS[spec["arm"]]))
