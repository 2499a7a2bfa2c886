"""Tensors that several processes hold in parts, seen as whole ones. A plain tensor is whole already.

Parts are DTensors (torch.distributed.tensor), known by what they can do: one process never loads that package.
"""

import torch
from torch import Tensor

from opsd_core.models.cut import Cut


def whole(tensor: Tensor) -> Tensor:
    """All of the tensor; every process that holds a part has to ask. It shares memory with a part that is all of it."""
    gather = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


def here(tensor: Tensor) -> Tensor:
    """What this process holds of the tensor."""
    local = getattr(tensor, "to_local", None)
    return local() if local else tensor


def part_of(values: Tensor, like: Tensor) -> Tensor:
    """The whole tensor `values`, which every process has, laid out as `like` is; parts of such a layout stay as they are."""
    if hasattr(values, "full_tensor"):
        return values
    if not hasattr(like, "full_tensor"):
        return values.to(like.device)
    from torch.distributed.tensor import DTensor

    mine = like.device_mesh.get_local_rank(), like.device_mesh.size()
    part = Cut(*mine).part(values).to(here(like).device)
    return DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())


@torch.no_grad()
def fill(tensor: Tensor, values: Tensor) -> None:
    """Copy the whole tensor `values` into `tensor`, in place."""
    tensor.copy_(part_of(values, tensor))
