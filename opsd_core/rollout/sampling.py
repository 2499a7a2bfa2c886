"""Drawing a token, and recording the distribution that it was drawn from.

B = completions decoded together, V = vocabulary, T = tokens of a completion, K = entries kept
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from opsd_core.records.rollouts import Rollout


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. temperature 0 takes the most likely token (greedy)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_completion_length: int = 256
    record_top_k: int = 0


@dataclass
class Completion:
    """One sampled completion; T tokens including the end-of-sequence token when it was reached.

    `logprobs_T` is under the untempered model, `sampling_logprobs_T` under the distribution that was drawn from
    (temperature, top-k and top-p applied and renormalised; 0 for greedy). `topk_logprobs_TK` is normalised over the
    full vocabulary; `tail_mass_T` is the probability outside the K entries; `entropy_T` is in nats.
    """

    ids_T: list[int] = field(default_factory=list)
    logprobs_T: list[float] = field(default_factory=list)
    sampling_logprobs_T: list[float] = field(default_factory=list)
    topk_ids_TK: list[np.ndarray] = field(default_factory=list)
    topk_logprobs_TK: list[np.ndarray] = field(default_factory=list)
    tail_mass_T: list[float] = field(default_factory=list)
    entropy_T: list[float] = field(default_factory=list)
    finish_reason: Literal["eos", "length"] = "length"


def sample_and_record(
    logits_BV: Tensor,
    draws_B: Tensor,
    sampling: Sampling,
    completions: list[Completion],
    rows: Tensor,
    running_B: Tensor,
) -> Tensor:
    """Draw each row's next token (B,) and write it, with its distribution, to the completions of running rows."""
    logits_BV = logits_BV.float()
    logprobs_BV = torch.log_softmax(logits_BV, dim=-1)
    if sampling.temperature == 0.0:
        tokens_B = logprobs_BV.argmax(-1)
        sampling_B = torch.zeros_like(draws_B, dtype=torch.float32)
    else:
        tempered_BV = logprobs_BV
        if sampling.temperature != 1.0:
            tempered_BV = torch.log_softmax(logits_BV / sampling.temperature, dim=-1)
        filtered_BV = filtered(tempered_BV, sampling)
        tokens_B = _inverse_cdf(filtered_BV, draws_B)
        sampling_B = filtered_BV.gather(1, tokens_B[:, None]).squeeze(1)
    chosen_B = logprobs_BV.gather(1, tokens_B[:, None]).squeeze(1)
    probs_BV = logprobs_BV.exp()
    entropy_B = -torch.linalg.vecdot(probs_BV, logprobs_BV.clamp(min=-1e30))  # a token of probability 0 adds 0, not nan
    top_ids = top_logprobs = tail = None
    if sampling.record_top_k:
        top = logprobs_BV.topk(min(sampling.record_top_k, logprobs_BV.shape[-1]), dim=-1)
        top_logprobs, top_ids = top.values.cpu().numpy(), top.indices.to(torch.int32).cpu().numpy()
        # Summing what is left keeps small tails exact; 1 - sum(top) would leave only rounding noise.
        tail = probs_BV.scatter_(1, top.indices, 0.0).sum(-1).tolist()
    columns = (rows, running_B, tokens_B, chosen_B, sampling_B, entropy_B)
    for index, (row, running, token, logprob, drawn, entropy) in enumerate(
        zip(*(c.tolist() for c in columns), strict=True)
    ):
        if not running:
            continue
        completion = completions[row]
        completion.ids_T.append(token)
        completion.logprobs_T.append(logprob)
        completion.sampling_logprobs_T.append(drawn)
        completion.entropy_T.append(entropy)
        if tail is not None:
            completion.topk_ids_TK.append(top_ids[index])
            completion.topk_logprobs_TK.append(top_logprobs[index])
            completion.tail_mass_T.append(tail[index])
    return tokens_B


def filtered(logprobs_BV: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities drawn from, after the temperature: top-k, then top-p on what is left, renormalised."""
    if 0 < sampling.top_k < logprobs_BV.shape[-1]:
        smallest_B1 = logprobs_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logprobs_BV = torch.log_softmax(logprobs_BV.masked_fill(logprobs_BV < smallest_B1, -torch.inf), dim=-1)
    if sampling.top_p < 1.0:
        sorted_BV, order_BV = logprobs_BV.sort(dim=-1, descending=True)
        before_BV = sorted_BV.exp().cumsum(-1) - sorted_BV.exp()
        outside_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, order_BV, before_BV >= sampling.top_p)
        logprobs_BV = torch.log_softmax(logprobs_BV.masked_fill(outside_BV, -torch.inf), dim=-1)
    return logprobs_BV


def _inverse_cdf(logprobs_BV: Tensor, draws_B: Tensor) -> Tensor:
    """The token at which the cumulative distribution passes the draw; never one of probability 0."""
    cumulative_BV = logprobs_BV.exp().cumsum(-1, dtype=torch.float64)
    target_B1 = (draws_B.double() * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(1).clamp(max=logprobs_BV.shape[-1] - 1)


def uniform_draws(seeds: list[int], length: int) -> Tensor:
    """Uniform draws in [0, 1), one row per seed; the first n are the same whatever the length."""
    rows = [torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows)


def rollout_of(key: tuple[str, int], seed: int, prompt_ids: Sequence[int], completion: Completion, text: str) -> Rollout:
    """The record of a completion that was sampled for `key`, the pair of example id and sample index."""
    return Rollout(
        *key,
        seed=seed,
        prompt_ids=list(prompt_ids),
        completion_ids=completion.ids_T,
        completion_text=text,
        finish_reason=completion.finish_reason,
        sampling_logprobs_T=np.asarray(completion.sampling_logprobs_T, np.float32),
        logprobs_T=np.asarray(completion.logprobs_T, np.float32),
        topk_ids_TK=np.stack(completion.topk_ids_TK).astype(np.int32),
        topk_logprobs_TK=np.stack(completion.topk_logprobs_TK).astype(np.float32),
        tail_mass_T=np.asarray(completion.tail_mass_T, np.float32),
        entropy_T=np.asarray(completion.entropy_T, np.float32),
    )
