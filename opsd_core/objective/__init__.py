"""The distillation objective: from hidden states and an output head to a loss and what to log.

Reading order: types, divergences, bounds, supports, stops, merging, products, plain, rows, likelihood, strips, fused, kernels.
docs/objective.md has the equations.

N = flattened completion tokens, V = vocabulary, H = hidden size, K = kept entries
"""

from dataclasses import fields, replace

import torch
from torch import Tensor

from opsd_core.config.kinds.divergences import TEACHER_FREE
from opsd_core.config.method import DistillationConfig
from opsd_core.errors import DataError
from opsd_core.objective.fused import fused_loss
from opsd_core.objective.likelihood import plain_likelihood
from opsd_core.objective.plain import plain_loss
from opsd_core.objective.products import working_dtype
from opsd_core.objective.stops import Stops
from opsd_core.objective.types import FullTargets, Head, HiddenTargets, ObjectiveResult, SampledTokens, TopKTargets

__all__ = [
    "FullTargets",
    "Head",
    "HiddenTargets",
    "ObjectiveResult",
    "SampledTokens",
    "Stops",
    "Targets",
    "TopKTargets",
    "distillation_loss",
]

Targets = TopKTargets | HiddenTargets | FullTargets | SampledTokens

PLAIN_MAX_LOGITS = 2**20
"""N x V up to which whole logits are used (4 MiB a side): measured on CPU, strips tie up to here and win above."""


def distillation_loss(
    student_hidden_NH: Tensor,
    head: Head,
    targets: Targets,
    token_ids_N: Tensor,
    weights_N: Tensor,
    config: DistillationConfig,
) -> ObjectiveResult:
    """How far the student is from the teacher, summed over tokens, with gradients to student hidden states and head.

        s_n = log_softmax(logits(student_hidden_n) / T_loss)
        t_n = log_softmax(logits(teacher_hidden_n) / (T_teacher * T_loss))     or recorded
        loss_sum = sum_n weights_n * bound(D(s_n, t_n))
                 = sum_n weights_n * -A_n s_n(y_n)                             without a teacher (`SampledTokens`)

    With `targets.stops` the tokens that end each side are one event on both (`opsd_core.objective.stops`).

    Divide by the global sum of `weights_N` over all microbatches and ranks: the bound's factor is not part of that
    sum, or a batch in which every token is bounded would be scaled back up. Rows of weight 0 are never read, so
    they may hold anything, and contribute exactly 0. Arithmetic is float32 (float64 for float64 input), also inside
    an autocast region; on a GPU its dtype is that of the matrix products' operands (`opsd_core.objective.products`).

    Raises DataError when shapes disagree, or when sampled_token gets recorded targets without sampled_logprob_N.
    """
    _check(student_hidden_NH, head, targets, token_ids_N, weights_N, config)
    rows_R = weights_N.nonzero()[:, 0]
    if len(rows_R) == 0:
        return _nothing(student_hidden_NH, head, targets)
    plain = plain_likelihood if isinstance(targets, SampledTokens) else plain_loss
    loss = plain if len(rows_R) * len(head.weight_VH) <= PLAIN_MAX_LOGITS else fused_loss
    everything = len(rows_R) == len(weights_N)
    rows = (student_hidden_NH, head, targets, token_ids_N, weights_N)
    if not everything:
        targets = _select(targets, rows_R)
        rows = (student_hidden_NH[rows_R], head, targets, token_ids_N[rows_R], weights_N[rows_R])
    result = loss(*rows, config)
    return result if everything else _expand(result, rows_R, len(weights_N))


def _select(targets: Targets, rows_R: Tensor) -> Targets:
    if isinstance(targets, HiddenTargets):
        return replace(targets, hidden_NH=targets.hidden_NH[rows_R])
    columns = {field.name: getattr(targets, field.name) for field in fields(targets)}
    return replace(targets, **{name: c[rows_R] for name, c in columns.items() if isinstance(c, Tensor)})


def _expand(result: ObjectiveResult, rows_R: Tensor, size: int) -> ObjectiveResult:
    columns = {field.name: getattr(result, field.name) for field in fields(result)}
    for name, column in columns.items():
        if name != "loss_sum" and column is not None:
            columns[name] = column.new_zeros(size).index_copy(0, rows_R, column)
    return ObjectiveResult(**columns)


def _nothing(student_hidden_NH: Tensor, head: Head, targets: Targets) -> ObjectiveResult:
    dtype = working_dtype(student_hidden_NH)
    leaves = [student_hidden_NH, head.weight_VH] + ([] if head.bias_V is None else [head.bias_V])
    zeros_N = torch.zeros(len(student_hidden_NH), dtype=dtype, device=student_hidden_NH.device)
    loss_sum = sum(leaf[:0].sum().to(dtype) for leaf in leaves)
    if isinstance(targets, SampledTokens):
        return ObjectiveResult(loss_sum, *[zeros_N] * 3, None, zeros_N, None)
    not_recorded = isinstance(targets, TopKTargets) and targets.sampled_logprob_N is None
    return ObjectiveResult(loss_sum, *[zeros_N] * 5, None if not_recorded else zeros_N)


def _check(
    student_hidden_NH: Tensor,
    head: Head,
    targets: Targets,
    token_ids_N: Tensor,
    weights_N: Tensor,
    config: DistillationConfig,
) -> None:
    flat = student_hidden_NH.dim() == 2 and head.weight_VH.dim() == 2
    if not flat or student_hidden_NH.shape[1] != head.weight_VH.shape[1]:
        raise DataError(
            f"student_hidden_NH {tuple(student_hidden_NH.shape)} and head.weight_VH {tuple(head.weight_VH.shape)} must "
            "be [N, H] and [V, H]: flatten the completion positions, and pass the head of the same model."
        )
    size = len(student_hidden_NH)
    lengths = {"token_ids_N": len(token_ids_N), "weights_N": len(weights_N)}
    if config.teacher_free != isinstance(targets, SampledTokens):
        raise DataError(
            f"distillation.divergence={config.divergence} got {type(targets).__name__}: {' and '.join(TEACHER_FREE)} take "
            "SampledTokens, every other divergence a teacher's distribution."
        )
    if isinstance(targets, SampledTokens):
        if targets.advantages_N is not None:
            lengths["targets.advantages_N"] = len(targets.advantages_N)
    elif isinstance(targets, HiddenTargets):
        lengths["targets.hidden_NH"] = len(targets.hidden_NH)
        _check_vocabulary(len(head.weight_VH), len(targets.head.weight_VH))
    elif isinstance(targets, FullTargets):
        lengths["targets.logprobs_NV"] = len(targets.logprobs_NV)
        _check_vocabulary(len(head.weight_VH), targets.logprobs_NV.shape[-1])
    else:
        lengths["targets.ids_NK"], lengths["targets.logprobs_NK"] = len(targets.ids_NK), len(targets.logprobs_NK)
        lengths["targets.tail_logprob_N"] = len(targets.tail_logprob_N)
        if (config.kind.sampled_only or config.samples_tail) and targets.sampled_logprob_N is None:
            raise DataError(
                f"distillation.divergence={config.divergence} with distillation.tail={config.tail} needs the teacher's "
                "log-probability of each sampled token, and these recorded targets hold none. Record sampled_logprob_N, or set "
                "distillation.targets=online."
            )
    if wrong := {name: length for name, length in lengths.items() if length != size}:
        raise DataError(
            f"student_hidden_NH has {size} rows but {wrong}: one row per completion token on every side. Check that "
            "student and teacher positions are cut at the same completion."
        )


def _check_vocabulary(student: int, teacher: int) -> None:
    if student != teacher:
        raise DataError(
            f"The student's head has {student} entries and the teacher's {teacher}: distributions "
            "over different vocabularies cannot be compared. Use a teacher with the same tokenizer and padding."
        )
