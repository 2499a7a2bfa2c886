"""The objective without a logits tensor: hidden states and head in, loss and gradients out, strip by strip.

A strip is R tokens x the whole vocabulary, small enough for a fixed memory budget; arithmetic inside it runs over tiles
of the vocabulary that stay in cache. The loss is a scalar, so the gradients of a strip need nothing from later strips:
they are computed in the forward pass, while its logits still exist, and `backward` only multiplies by the incoming
scalar. That is three matrix products per strip (logits, hidden gradient, weight gradient), as many as over whole
logits; recomputing logits in the backward pass would be four.

When teacher and student share one head, their hidden states are stacked and one product per weight tile serves both.

N = tokens, R = tokens of a strip, V = vocabulary, W = width of a tile, H = hidden size, K = kept entries
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from opsd_core.config.method import DistillationConfig
from opsd_core.objective.likelihood import likelihood_strip
from opsd_core.objective.merging import StudentEnds, merge_logits
from opsd_core.objective.products import (
    accumulate,
    autocast_dtype,
    multiply,
    operand_dtype,
    pushed_dtype,
    working_dtype,
)
from opsd_core.objective.rows import Tiles
from opsd_core.objective.strips import StripResult, bucketed_strip, dense_strip
from opsd_core.objective.types import FullTargets, Head, HiddenTargets, ObjectiveResult, SampledTokens, TopKTargets

_STRIP_BYTES = {"cpu": 48 * 2**20, "cuda": 512 * 2**20}
"""Logits of one side held at once. CUDA: few, large products."""
_STRIP_OF_HEAD = 4
"""A strip may take 1 / 4 of the head's float32 weights where that is more: every strip reads them all, few rows waste that."""
_STRIP_ROWS = {"cpu": 256, "cuda": 8192}
"""Most rows of a strip. CPU: more rows make the matrix products no faster (measured at 64, 128, 256)."""
_TILE_BYTES = {"cpu": 2 * 2**20, "cuda": 256 * 2**20}
"""One tile of logits. CPU: temporaries of this size are reused by the allocator and stay near the cores."""


def default_tiles(vocabulary: int, hidden: int, device: torch.device) -> Tiles:
    """Rows of a strip and columns of a tile for a head (vocabulary, hidden)."""
    kind = "cpu" if device.type == "cpu" else "cuda"
    rows = min(max(_STRIP_BYTES[kind] // (4 * vocabulary), hidden // _STRIP_OF_HEAD, 1), _STRIP_ROWS[kind])
    rows = rows - rows % 32 if rows >= 32 else rows
    return Tiles(rows, min(max(_TILE_BYTES[kind] // (4 * rows), 256), vocabulary))


Targets = TopKTargets | HiddenTargets | FullTargets | SampledTokens


class _Wanted(NamedTuple):
    hidden: bool
    weight: bool
    bias: bool


@dataclass
class _Call:
    """What one evaluation needs besides the differentiable tensors."""

    student: Head
    """Its weights in the dtype of the products' operands; the gradient is that of the weights as they were given."""
    operands: torch.dtype
    pushed: torch.dtype
    """Of the operands through which gradients of logits are pushed."""
    targets: Targets
    token_ids_N: Tensor
    weights_N: Tensor
    config: DistillationConfig
    tiles: Tiles
    wanted: _Wanted


def fused_loss(
    student_hidden_NH: Tensor,
    head: Head,
    targets: Targets,
    token_ids_N: Tensor,
    weights_N: Tensor,
    config: DistillationConfig,
    tiles: Tiles | None = None,
) -> ObjectiveResult:
    """The objective of `distillation_loss` holding at most `tiles.rows` rows of logits per side.

    Peak extra memory is the strips, the float32 gradients (of the head only when it is trained) and a few tiles.
    Raises RuntimeError when differentiated twice: the first backward gives its gradient buffers away.
    """
    tiles = tiles or default_tiles(*head.weight_VH.shape, student_hidden_NH.device)
    autocast = autocast_dtype(student_hidden_NH.device)
    with torch.autocast(student_hidden_NH.device.type, enabled=False):
        student_hidden_NH, head = head.unscaled(student_hidden_NH)
        operands = operand_dtype(student_hidden_NH, head.weight_VH, autocast)
        pushed = pushed_dtype(student_hidden_NH, head.weight_VH, autocast)
        student = _in_operands(head, operands)
        if isinstance(targets, HiddenTargets):
            hidden_NH, teacher = targets.head.unscaled(targets.hidden_NH)
            shared = _same_tensor(head.weight_VH, teacher.weight_VH)
            teacher = teacher._replace(weight_VH=student.weight_VH) if shared else _in_operands(teacher, operands)
            targets = replace(targets, hidden_NH=hidden_NH, head=teacher)
        leaves = (student_hidden_NH, head.weight_VH, head.bias_V)
        wanted = _Wanted(*(torch.is_grad_enabled() and leaf is not None and leaf.requires_grad for leaf in leaves))
        call = _Call(student, operands, pushed, targets, token_ids_N, weights_N, config, tiles, wanted)
        loss_sum, *columns = _FusedLoss.apply(*leaves, call)
    return ObjectiveResult(loss_sum, *columns)


def _in_operands(head: Head, operands: torch.dtype) -> Head:
    """The head without its history, its weights copied once where the operands are narrower than they are."""
    weight_VH = head.weight_VH.detach()
    return head._replace(weight_VH=weight_VH.to(operands) if operands == torch.bfloat16 else weight_VH)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, call: _Call):
        size, dtype = len(hidden_NH), working_dtype(hidden_NH)
        wanted = call.wanted
        gradients = [
            leaf.new_zeros(leaf.shape, dtype=dtype) if wants else None
            for leaf, wants in zip((hidden_NH, weight_VH, bias_V), wanted, strict=True)
        ]
        buffer_SRV = _strip_buffer(hidden_NH, call, dtype)
        columns = [hidden_NH.new_zeros(size, dtype=dtype) for _ in StripResult._fields]
        absent: set[int] = set()
        for start in range(0, size, call.tiles.rows):
            rows = slice(start, min(start + call.tiles.rows, size))
            hidden_RH = hidden_NH[rows].to(call.operands)
            strips = _project_strip(hidden_RH, call, rows, buffer_SRV)
            for index, column_R in enumerate(_strip(strips, call, rows, any(wanted))):
                if column_R is None:
                    absent.add(index)
                else:
                    columns[index][rows] = column_R
            if any(wanted):
                _accumulate(gradients, strips[0], hidden_RH, call, rows)
        columns = [None if index in absent else column for index, column in enumerate(columns)]
        loss_sum = (call.weights_N.to(dtype) * columns[1]).sum()
        ctx.gradients = gradients
        ctx.dtypes = [None if leaf is None else leaf.dtype for leaf in (hidden_NH, weight_VH, bias_V)]
        ctx.mark_non_differentiable(*(column for column in columns if column is not None))
        return loss_sum, *columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor):
        if ctx.gradients is None:
            raise RuntimeError(
                "The fused objective was differentiated a second time, but its gradient buffers were given away by the "
                "first backward. Call distillation_loss again instead of backward(retain_graph=True)."
            )
        gradients, ctx.gradients = ctx.gradients, None
        pairs = zip(gradients, ctx.dtypes, strict=True)
        return *(None if gradient is None else gradient.mul_(grad_loss).to(dtype) for gradient, dtype in pairs), None


def _strip_buffer(hidden_NH: Tensor, call: _Call, dtype: torch.dtype) -> Tensor:
    sides = _sides(call)
    rows = min(call.tiles.rows, len(hidden_NH))
    return hidden_NH.new_empty((sides * rows, len(call.student.weight_VH)), dtype=dtype)


def _sides(call: _Call) -> int:
    """Distributions over the whole vocabulary that a strip holds: the student's, and the teacher's where it has one."""
    return 1 if isinstance(call.targets, TopKTargets | SampledTokens) else 2


def _same_tensor(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _weight_tiles(
    weight_VH: Tensor, dtype: torch.dtype, tiles: Tiles, whole: bool = True
) -> Iterator[tuple[slice, Tensor]]:
    """The head in the operands' dtype: itself when it has that dtype and may be `whole`, else one tile after another."""
    if whole and weight_VH.dtype == dtype:
        yield slice(0, len(weight_VH)), weight_VH
        return
    for columns in tiles.of(len(weight_VH)):
        yield columns, weight_VH[columns].to(dtype)


def _project_strip(hidden_RH: Tensor, call: _Call, rows: slice, buffer_SRV: Tensor) -> list[Tensor]:
    """Logits of a strip divided by their temperatures: [student], or [student, teacher]; FullTargets are copied in."""
    size, student, temperature = len(hidden_RH), call.student, call.config.temperature
    sides = [(hidden_RH, student, temperature)]
    if isinstance(call.targets, HiddenTargets):
        teacher = call.targets
        sides.append((teacher.hidden_NH[rows].to(call.operands), teacher.head, temperature * teacher.temperature))
    strips = list(buffer_SRV[: _sides(call) * size].split(size))
    if isinstance(call.targets, FullTargets):
        strips[1].copy_(call.targets.logprobs_NV[rows])
    if len(sides) == 2 and _same_tensor(student.weight_VH, sides[1][1].weight_VH):
        stacked_SH = torch.cat([hidden_RH, sides[1][0]])
        for columns, weight_WH in _weight_tiles(student.weight_VH, call.operands, call.tiles):
            multiply(stacked_SH, weight_WH.T, buffer_SRV[: 2 * size, columns])
    else:
        for strip_RV, (side_RH, head, _) in zip(strips, sides, strict=False):
            for columns, weight_WH in _weight_tiles(head.weight_VH, call.operands, call.tiles):
                multiply(side_RH, weight_WH.T, strip_RV[:, columns])
    for strip_RV, (_, head, divisor) in zip(strips, sides, strict=False):
        _cap(strip_RV, head, divisor, call.tiles)
    return strips


def _cap(logits_RV: Tensor, head: Head, temperature: float, tiles: Tiles) -> None:
    """Add the bias, cap and divide by the temperature, in place."""
    if head.bias_V is None and head.softcap is None and temperature == 1.0:
        return
    for columns in tiles.of(logits_RV.shape[1]):
        tile_RW = logits_RV[:, columns]
        if head.bias_V is not None:
            tile_RW += head.bias_V[columns].to(tile_RW.dtype)
        if head.softcap is not None:
            tile_RW.div_(head.softcap).tanh_().mul_(head.softcap)
        tile_RW.div_(temperature)


def _strip(strips: list[Tensor], call: _Call, rows: slice, gradients: bool) -> StripResult:
    """Turn a strip's student logits into their gradients (in place) and return the columns of its rows."""
    targets = call.targets
    teacher_RV = strips[1] if len(strips) == 2 else None
    if isinstance(targets, TopKTargets):
        sampled_N = targets.sampled_logprob_N
        targets = TopKTargets(
            targets.ids_NK[rows],
            targets.logprobs_NK[rows],
            targets.tail_logprob_N[rows],
            None if sampled_N is None else sampled_N[rows],
        )
    bucketed = teacher_RV is None or call.config.top_k_of != "full" or call.config.kind.sampled_only
    strip = bucketed_strip if bucketed else dense_strip
    token_ids_R, ends = call.token_ids_N[rows], {}
    if isinstance(targets, SampledTokens):
        advantages_N = targets.advantages_N
        strip, targets = likelihood_strip, SampledTokens(None if advantages_N is None else advantages_N[rows])
    elif stops := call.targets.stops:
        ends["ends"] = merged = StudentEnds.merge(strips[0], stops, token_ids_R)
        token_ids_R = merged.event_ids()
        if isinstance(targets, HiddenTargets):
            merge_logits(strips[1], stops.members[0], stops)
    return strip(
        strips[0],
        targets if teacher_RV is None else teacher_RV,
        token_ids_R,
        call.weights_N[rows].to(strips[0].dtype),
        call.config,
        call.student.softcap,
        call.tiles,
        gradients,
        **ends,
    )


def _accumulate(
    gradients: list[Tensor | None], grad_logits_RV: Tensor, hidden_RH: Tensor, call: _Call, rows: slice
) -> None:
    """Push a strip's logit gradients through the head: operands in their dtype, sums in the working dtype."""
    grad_hidden_NH, grad_weight_VH, grad_bias_V = gradients
    if grad_bias_V is not None:
        grad_bias_V += grad_logits_RV.sum(dim=0)
    if grad_hidden_NH is None and grad_weight_VH is None:
        return
    hidden_RH = hidden_RH.to(call.pushed)
    whole = call.pushed == call.operands
    for columns, weight_WH in _weight_tiles(call.student.weight_VH, call.pushed, call.tiles, whole):
        grad_logits_RW = grad_logits_RV[:, columns].to(call.pushed)
        if grad_hidden_NH is not None:
            accumulate(grad_hidden_NH[rows], grad_logits_RW, weight_WH)
        if grad_weight_VH is not None:
            accumulate(grad_weight_VH[columns], grad_logits_RW.T, hidden_RH)
