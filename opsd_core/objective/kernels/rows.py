"""The rows of a strip in Triton: one program reads one row from left to right, so sums have one order on every run.

Each function here stands for the function of the same name in `opsd_core.objective.rows` and works in place as it does.
Arithmetic is float32. What is lower than LOG_ZERO is read as LOG_ZERO; NaN stays NaN.

R = tokens of the strip, V = vocabulary
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from opsd_core.config.method import DistillationConfig
from opsd_core.objective.divergences import forward_share
from opsd_core.objective.kernels.divergences import entries, log_zero

_BLOCK, _WARPS = 4096, 8
"""Entries of a row at a time, and the warps that share them."""
_KINDS = {"forward_kl": 0, "reverse_kl": 1, "jsd": 2, "skew_kl": 3, "entropy_mix": 4}
_BOUNDS = {"entry_clip": 1, "ratio_clip": 2}
"""Bounds that act on entries or on the target; the others act on tokens, after the sums."""


def logsumexp(logits_RV: Tensor) -> Tensor:
    """(R,)"""
    normaliser_R = logits_RV.new_empty(len(logits_RV))
    _launch(_logsumexp, logits_RV, normaliser_R)
    return normaliser_R


def normalise(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """Normaliser and entropy, (R,) each."""
    normaliser_R, entropy_R = (logits_RV.new_empty(len(logits_RV)) for _ in range(2))
    _launch(_normalise, logits_RV, normaliser_R, entropy_R)
    return normaliser_R, entropy_R


def dense_values(
    student_RV: Tensor,
    teacher_RV: Tensor,
    teacher_entropy_R: Tensor,
    config: DistillationConfig,
    floored: tuple[int, Tensor] | None,
) -> list[Tensor] | None:
    """Divergence, bounded divergence and sum of slopes, (R,) each; None for a divergence that has no kernel."""
    kind, share, scale = _kind_of(config)
    if kind not in _KINDS:
        return None
    shares_R = teacher_entropy_R
    if kind == "entropy_mix":
        shares_R = forward_share(teacher_entropy_R, config.entropy_threshold, config.entropy_width)
    column, floored_R = (floored[0], floored[1].to(torch.int32)) if floored else (-1, torch.zeros_like(shares_R).int())
    sums = [torch.empty_like(teacher_entropy_R) for _ in range(3)]
    numbers = (column, config.bound_threshold, share, scale)
    kinds = {"KIND": _KINDS[kind], "BOUND": _BOUNDS.get(config.bound, 0)}
    _launch(_dense_values, student_RV, teacher_RV, teacher_RV.stride(0), shares_R, floored_R, *sums, *numbers, **kinds)
    return sums


def _kind_of(config: DistillationConfig) -> tuple[str, float, float]:
    """The divergence with its limits as what they are, the teacher's share of the mixture, and the scale."""
    if config.divergence == "jsd":
        if config.beta in (0.0, 1.0):
            return ("reverse_kl" if config.beta else "forward_kl"), 0.0, 1.0
        return "jsd", config.beta, 1.0 / (config.beta * (1.0 - config.beta)) if config.normalise_beta else 1.0
    if config.divergence == "skew_kl":
        return ("skew_kl" if config.skew else "forward_kl"), config.skew, 1.0
    return config.divergence, 0.0, 1.0


def dense_gradients(student_RV: Tensor, slopes_RV: Tensor, slope_sum_R: Tensor, factor_R: Tensor) -> None:
    """Log-probabilities become factor (d_v - S_v sum_u d_u)."""
    _launch(_dense_gradients, student_RV, slopes_RV, slopes_RV.stride(0), slope_sum_R, factor_R.contiguous())


def tail_gradients(masked_RV: Tensor, tail_R: Tensor, outside_R: Tensor | None) -> Tensor:
    """sum_v Q_v log Q_v (R,); masked logits become Q_v * outside."""
    mean_log_q_R = torch.empty_like(tail_R)
    outside = tail_R if outside_R is None else outside_R.contiguous()
    _launch(_tail_gradients, masked_RV, tail_R.contiguous(), outside, mean_log_q_R, GRADIENTS=outside_R is not None)
    return mean_log_q_R


def _launch(kernel: triton.JITFunction, first_RV: Tensor, *arguments: Tensor | int | float, **constants: int) -> None:
    size, vocabulary = first_RV.shape
    block = min(_BLOCK, triton.next_power_of_2(vocabulary))
    kernel[(size,)](first_RV, vocabulary, first_RV.stride(0), *arguments, **constants, BLOCK=block, num_warps=_WARPS)


@triton.jit
def _read(base: tl.tensor, columns: tl.tensor, V: tl.constexpr):
    x = tl.load(base + columns, mask=columns < V, other=log_zero)
    return tl.where(x < log_zero, log_zero, x)


@triton.jit
def _row_logsumexp(base: tl.tensor, V: tl.constexpr, BLOCK: tl.constexpr):
    largest = tl.full([BLOCK], log_zero, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        x = _read(base, start + tl.arange(0, BLOCK), V)
        higher = tl.where(x > largest, x, largest)
        total = total * tl.exp(largest - higher) + tl.exp(x - higher)
        largest = higher
    top = tl.max(largest, 0)
    return top + tl.log(tl.sum(total * tl.exp(largest - top), 0))


@triton.jit
def _logsumexp(logits: tl.tensor, V: tl.constexpr, stride: tl.tensor, normaliser: tl.tensor, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    tl.store(normaliser + row, _row_logsumexp(logits + row * stride, V, BLOCK))


@triton.jit
def _normalise(
    logits: tl.tensor, V: tl.constexpr, stride: tl.tensor, normaliser: tl.tensor, entropy: tl.tensor, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * stride
    norm = _row_logsumexp(base, V, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        logprobs = _read(base, columns, V) - norm
        logprobs = tl.where(logprobs < log_zero, log_zero, logprobs)
        total += tl.where(columns < V, tl.exp(logprobs) * logprobs, 0.0)
        tl.store(base + columns, logprobs, mask=columns < V)
    tl.store(normaliser + row, norm)
    tl.store(entropy + row, -tl.sum(total, 0))


@triton.jit
def _dense_values(
    student: tl.tensor, V: tl.constexpr, stride: tl.tensor, teacher: tl.tensor, teacher_stride: tl.tensor,
    shares: tl.tensor, floored: tl.tensor, totals: tl.tensor, bounded: tl.tensor, slope_sums: tl.tensor,
    leftover: tl.tensor, threshold: tl.tensor, share: tl.tensor, scale: tl.tensor, KIND: tl.constexpr,
    BOUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    student += row * stride
    teacher += row * teacher_stride
    forward = tl.load(shares + row)
    is_floored = tl.load(floored + row) != 0
    total = tl.zeros([BLOCK], tl.float32)
    bounded_total = tl.zeros([BLOCK], tl.float32)
    slope_total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        s = _read(student, columns, V)
        t = _read(teacher, columns, V)
        terms, slopes = entries(s, t, forward, share, scale, KIND)
        total += terms
        if BOUND == 1:
            slopes = tl.where(terms > threshold, 0.0, slopes)
            terms = tl.where(terms > threshold, threshold, terms)
        if BOUND == 2:
            distance = t - s
            distance = tl.where(distance > threshold, threshold, tl.where(distance < -threshold, -threshold, distance))
            terms, slopes = entries(s, s + distance, forward, share, scale, KIND)
        slopes = tl.where((columns == leftover) & is_floored, 0.0, slopes)
        inside = columns < V
        bounded_total += tl.where(inside, terms, 0.0)
        slope_total += tl.where(inside, slopes, 0.0)
        tl.store(teacher + columns, slopes, mask=inside)
    tl.store(totals + row, tl.sum(total, 0))
    tl.store(bounded + row, tl.sum(bounded_total, 0))
    tl.store(slope_sums + row, tl.sum(slope_total, 0))


@triton.jit
def _dense_gradients(
    student: tl.tensor, V: tl.constexpr, stride: tl.tensor, slopes: tl.tensor, slopes_stride: tl.tensor,
    slope_sums: tl.tensor, factors: tl.tensor, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    student += row * stride
    slopes += row * slopes_stride
    factor = tl.load(factors + row)
    share = -tl.load(slope_sums + row) * factor
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        s = tl.load(student + columns, mask=inside, other=log_zero)
        d = tl.load(slopes + columns, mask=inside, other=0.0)
        tl.store(student + columns, tl.exp(s) * share + d * factor, mask=inside)


@triton.jit
def _tail_gradients(
    masked: tl.tensor, V: tl.constexpr, stride: tl.tensor, tails: tl.tensor, outsides: tl.tensor, mean_log_q: tl.tensor,
    GRADIENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    masked += row * stride
    tail = tl.load(tails + row)
    outside = tl.load(outsides + row)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        log_q = _read(masked, columns, V) - tail
        log_q = tl.where(log_q < log_zero, log_zero, log_q)
        q = tl.exp(log_q)
        total += tl.where(columns < V, q * log_q, 0.0)
        if GRADIENTS:
            tl.store(masked + columns, q * outside, mask=columns < V)
    tl.store(mean_log_q + row, tl.sum(total, 0))
