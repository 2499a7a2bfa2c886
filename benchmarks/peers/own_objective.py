"""The objective, forward and backward: opsd's, whole logits, and the bare matrix products."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.objective import bare_products
from benchmarks.peers.arm import main
from benchmarks.peers.tensors import Sides, measured
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


def products(made: Sides) -> Tensor:
    """The four products that both need, and nothing between them."""
    return torch.tensor(bare_products(made.hidden_NH, made.weight_VH, HiddenTargets(made.teacher_NH, Head(made.teacher_VH))))


ARMS: dict[str, Callable[[Sides], Tensor]] = {"opsd": own, "whole": whole, "products": products}


if __name__ == "__main__":
    main(lambda spec: measured(spec, ARMS[spec["arm"]]))
