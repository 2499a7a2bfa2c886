"""Matrix products with the head: operands in bfloat16 where the hardware multiplies those fast, sums in float32.

On a GPU results are float32 too. A product of two bfloat16 numbers is exact in float32, so bfloat16 hidden states and weights
lose nothing. Float32 operands are rounded to bfloat16 (relative 2^-9) only where autocast asks for bfloat16, as it does in every
other layer. Gradients of logits are rounded likewise before they are pushed through the head.

On a CPU torch rounds the product of bfloat16 matrices to bfloat16. A logit of 16 would be wrong by up to 2^-4, so logits are made
in float32 there. Gradients may be rounded: what autograd keeps of a bfloat16 layer is no better. They are pushed in bfloat16
where the CPU has instructions for it, tile by tile of the vocabulary, and the tiles' sums are float32.

N = tokens, H = hidden size, V = vocabulary
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from opsd_core.objective.trust import agrees


def working_dtype(hidden_NH: Tensor) -> torch.dtype:
    """float32 whatever the input, or float64 when the input is."""
    return torch.float64 if hidden_NH.dtype == torch.float64 else torch.float32


def operand_dtype(hidden_NH: Tensor, weight_VH: Tensor, autocast: torch.dtype | None = None) -> torch.dtype:
    """The dtype in which hidden states and weights are multiplied; `autocast` is the region's dtype, if there is one."""
    if not hidden_NH.is_cuda or working_dtype(hidden_NH) == torch.float64:
        return working_dtype(hidden_NH)
    both = hidden_NH.dtype == weight_VH.dtype == torch.bfloat16
    narrow = (both or autocast == torch.bfloat16) and _multiplies_bfloat16(hidden_NH.device)
    return torch.bfloat16 if narrow else torch.float32


def pushed_dtype(hidden_NH: Tensor, weight_VH: Tensor, autocast: torch.dtype | None = None) -> torch.dtype:
    """The dtype of the operands through which gradients of logits reach hidden states and weights."""
    operands = operand_dtype(hidden_NH, weight_VH, autocast)
    both = hidden_NH.dtype == weight_VH.dtype == torch.bfloat16
    narrow = hidden_NH.device.type == "cpu" and operands == torch.float32 and (both or autocast == torch.bfloat16)
    return torch.bfloat16 if narrow and cpu_multiplies_bfloat16() else operands


def cpu_multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for it; elsewhere torch converts the operands first."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


@cache
def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether this GPU's bfloat16 products with float32 sums are what float32 makes of the same numbers."""

    def difference() -> float:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(64, 64, generator=generator).bfloat16().to(device) for _ in range(2))
        expected, found, total = a.double() @ b.double(), a.new_empty((64, 64), dtype=torch.float32), torch.ones(64, 64)
        multiply(a, b, found)
        total = total.to(device)
        accumulate(total, a, b)
        return max(float((found - expected).abs().max()), float((total - 1 - expected).abs().max()))

    cost = "The head's products are made in float32, which is several times slower."
    return agrees("bfloat16 products with float32 sums", difference, 1e-4, device, cost)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of the autocast region that we are in; None outside one."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def linear(hidden_NH: Tensor, weight_VH: Tensor, autocast: torch.dtype | None = None) -> Tensor:
    """hidden @ weight^T in the working dtype, (N, V); where it is differentiated, its operands are in that dtype too."""
    dtype, operands = working_dtype(hidden_NH), operand_dtype(hidden_NH, weight_VH, autocast)
    if operands == dtype or (torch.is_grad_enabled() and (hidden_NH.requires_grad or weight_VH.requires_grad)):
        return functional.linear(hidden_NH.to(dtype), weight_VH.to(dtype))
    logits_NV = hidden_NH.new_empty((len(hidden_NH), len(weight_VH)), dtype=dtype)
    multiply(hidden_NH.to(operands), weight_VH.to(operands).T, logits_NV)
    return logits_NV


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a @ b, operands in one dtype, `out` in the working dtype."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    else:
        torch.mm(a, b, out_dtype=out.dtype, out=out)


def accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, operands in one dtype, `total` in the working dtype; on a CPU a bfloat16 product is rounded to bfloat16."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif not total.is_cuda:
        total.add_(torch.mm(a, b))
    else:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
