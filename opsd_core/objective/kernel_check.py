"""How far the kernels are from torch on a device: every function, on a small strip with masked and equal entries."""

from itertools import product
from types import ModuleType

import torch
from torch import Tensor

from opsd_core.config.method import DistillationConfig
from opsd_core.objective import rows
from opsd_core.objective.types import LOG_ZERO

_ROWS, _ENTRIES = 3, 5_003
_CASES = list(product(("forward_kl", "reverse_kl", "jsd", "skew_kl", "entropy_mix"), ("none", "entry_clip", "ratio_clip")))


def largest_difference(kernels: ModuleType, device: torch.device) -> float:
    """The largest |kernel - torch| over all functions and entries; NaN counts as infinite."""
    generator = torch.Generator().manual_seed(0)
    student_RV, teacher_RV = (4.0 * torch.randn(_ROWS, _ENTRIES, generator=generator) for _ in range(2))
    student_RV[:, 7], teacher_RV[0], student_RV[2, 100:] = LOG_ZERO, student_RV[0], LOG_ZERO
    found = [*_of_one_side(kernels, student_RV, device)]
    sides = [torch.log_softmax(side_RV, -1).clamp(min=-30.0) for side_RV in (student_RV, teacher_RV)]
    for divergence, bound in _CASES:
        config = DistillationConfig(divergence=divergence, bound=bound, bound_threshold=0.01, targets="online", beta=0.3)
        found += _of_two_sides(kernels, *sides, config, device)
    return max(_difference(*pair) for pair in found)


def _of_one_side(kernels: ModuleType, logits_RV: Tensor, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    tiles, tail_R = rows.Tiles(_ROWS, _ENTRIES), torch.logsumexp(logits_RV, -1)
    expected_RV, actual_RV = logits_RV.clone(), logits_RV.to(device, copy=True)
    masked_RV, ours_RV = logits_RV.clone(), logits_RV.to(device, copy=True)
    outside_R = torch.tensor([0.5, -1.0, 2.0])
    return [
        (kernels.logsumexp(actual_RV), rows.logsumexp(logits_RV, tiles)),
        *zip(kernels.normalise(actual_RV), rows.normalise(expected_RV, tiles), strict=True),
        (actual_RV.clamp(min=-1e4), expected_RV.clamp(min=-1e4)),
        (
            kernels.tail_gradients(ours_RV, tail_R.to(device), outside_R.to(device)),
            rows.tail_gradients(masked_RV, tail_R, outside_R, tiles),
        ),
        (ours_RV, masked_RV),
    ]


def _of_two_sides(
    kernels: ModuleType, student_RV: Tensor, teacher_RV: Tensor, config: DistillationConfig, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    tiles, floored_R = rows.Tiles(_ROWS, _ENTRIES), torch.tensor([True, False, True])
    entropy_R, factor_R = torch.tensor([0.2, 0.8, 2.0]), torch.tensor([1.0, 0.5, -2.0])
    expected = [student_RV.clone(), teacher_RV.clone()]
    actual = [side_RV.to(device, copy=True) for side_RV in expected]
    wanted = rows.dense_values(*expected, entropy_R, config, tiles, (11, floored_R))
    found = kernels.dense_values(*actual, entropy_R.to(device), config, (11, floored_R.to(device)))
    rows.dense_gradients(expected[0], rows.Slopes(expected[1], wanted.slope_sum_R, factor_R), entropy_R, tiles)
    kernels.dense_gradients(actual[0], actual[1], found[2], factor_R.to(device))
    return [*zip(found, wanted, strict=True), *zip(actual, expected, strict=True)]


def _difference(actual: Tensor, expected: Tensor) -> float:
    """Of the values themselves, or of their size where they are above 1."""
    gap = ((actual.cpu() - expected).abs() / expected.abs().clamp(min=1.0)).max()
    return float(gap.nan_to_num(nan=torch.inf))
