"""What the objective takes and returns.

N = flattened completion tokens, V = vocabulary, H = hidden size, K = kept entries
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from opsd_core.objective.stops import Stops

LOG_ZERO = -1e30
"""log 0 for arithmetic: exp gives exactly 0, and differences stay finite (-inf - -inf is nan)."""
TAIL_FLOOR = math.log(1e-10)
"""Least log-mass of a tail, on both sides: a teacher tail that rounds to 0 would make reverse KL infinite."""


class Entries(NamedTuple):
    """The summands of a divergence and their derivatives; E = compared entries."""

    terms_NE: Tensor
    slopes_NE: Tensor


class Head(NamedTuple):
    """An output projection: logits = cap(scale (hidden @ weight^T + bias)), cap(x) = softcap * tanh(x / softcap)."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def unscaled(self, hidden_NH: Tensor) -> tuple[Tensor, "Head"]:
        """Hidden states and a head of scale 1 that give the same logits: scale (h W^T + b) = (scale h) W^T + scale b.

        float32 at least, because the product is rounded; gradients pass through both.
        """
        if self.scale == 1.0:
            return hidden_NH, self
        wide = hidden_NH if hidden_NH.dtype == torch.float64 else hidden_NH.float()
        bias_V = None if self.bias_V is None else self.bias_V.to(wide.dtype) * self.scale
        return wide * self.scale, Head(self.weight_VH, bias_V, self.softcap)


@dataclass
class TopKTargets:
    """The teacher's K largest entries per token, recorded once, and the mass outside them.

    All log-probabilities are normalised over the full vocabulary at the teacher's temperature and the loss
    temperature; `supports.top_k_targets` makes them from logits.
    """

    ids_NK: Tensor
    """int64, distinct within a row."""
    logprobs_NK: Tensor
    """float32, nats."""
    tail_logprob_N: Tensor
    """float32, log of the mass outside the K entries; -inf when they hold everything."""
    sampled_logprob_N: Tensor | None = None
    """float32, of the sampled token (of its event, where end tokens are merged); divergence=sampled_token needs it."""
    stops: Stops | None = None
    """The end tokens that were merged before the entries were chosen, and are in the student; None = none."""


@dataclass
class HiddenTargets:
    """The teacher's last hidden states and head: the full vocabulary, projected inside the objective, no gradient."""

    hidden_NH: Tensor
    head: Head
    temperature: float = 1.0
    """The teacher's own temperature; its logits are divided by it and by the loss temperature."""
    stops: Stops | None = None
    """The end tokens that are one event on both sides; None = every token for itself."""


@dataclass
class FullTargets:
    """The teacher's whole distribution, for what no pair of hidden states and head gives: mixtures and truncations."""

    logprobs_NV: Tensor
    """float32, nats, normalised, at the teacher's temperature and the loss temperature; LOG_ZERO instead of -inf."""
    stops: Stops | None = None
    """The end tokens that were merged, in each model before the mixture, and are in the student; None = none."""


@dataclass
class SampledTokens:
    """No teacher: the completion's own tokens are what the student should (or should not) have said."""

    advantages_N: Tensor | None = None
    """float32, held fixed: the loss is -A log S(y). None = 1, which is cross-entropy."""


@dataclass
class ObjectiveResult:
    """The loss to differentiate and what to log. Rows whose weight is 0 hold 0 everywhere."""

    loss_sum: Tensor
    """Scalar, differentiable: sum_n weights_n * bounded_n. Not divided: divide by the global sum of weights."""
    divergence_N: Tensor
    """Divergence per token before the bound, in nats (sampled_token: log S - log T, may be negative; without a teacher:
    -log S)."""
    bounded_N: Tensor
    """Value per token after the bound (and the temperature-squared factor, if on)."""
    student_entropy_N: Tensor
    """Nats, full vocabulary, at the loss temperature; merged end tokens are one outcome, here and in the next."""
    teacher_entropy_N: Tensor | None
    """Nats, at both temperatures; recorded targets: of the K entries and the tail, a lower limit. None without a teacher."""
    logprobs_N: Tensor
    """Student log-probability of token_ids_N at the loss temperature."""
    teacher_logprobs_N: Tensor | None
    """Teacher log-probability of token_ids_N (recorded targets: sampled_logprob_N, or None), of an end token's event where
    end tokens are merged."""
    event_logprobs_N: Tensor | None = None
    """Student log-probability of the same: of an end token's event. None where nothing is merged: `logprobs_N`."""
