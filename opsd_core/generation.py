"""Batched sampling with the distribution at every position.

B = completions decoded together, V = vocabulary, K = entries kept, P = prompt tokens

What makes it fast on mixed-length prompts: prompts are sorted by length and prefilled in groups of like length, the prefix
that all of them share (system message, template) is computed once, and finished rows leave the batch. What makes it
reproducible: each completion draws from its own generator, seeded by name, so neither order nor neighbours decide what is
drawn.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from opsd_core.batching import shared_prefix
from opsd_core.errors import DataError
from opsd_core.kv_cache import can_join, join, like_lengths
from opsd_core.models import Policy

_COMPACT_BELOW = 0.75
"""Share of live rows under which the batch is compacted: copying the cache costs about a quarter of a step."""


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


@torch.inference_mode()
def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Sample one completion per prompt, in the order of `prompts`.

    Stops at the first end-of-sequence token, which is kept as the last token even when it doubles as padding.
    DataError when a prompt is empty or leaves no room in the model's context.
    """
    _check_lengths(policy, prompts, sampling)
    completions = [Completion() for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), list(prompts[index]), index))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        _decode_batch(
            policy,
            [prompts[row] for row in rows],
            [seeds[row] for row in rows],
            sampling,
            [completions[row] for row in rows],
        )
        if on_progress:
            on_progress(min(start + batch_size, len(order)), len(order))
    return completions


def _decode_batch(
    policy: Policy, prompts: list[Sequence[int]], seeds: list[int], sampling: Sampling, completions: list[Completion]
) -> None:
    draws_BT = _draws(seeds, sampling.max_completion_length).to(policy.device)
    room = sampling.max_completion_length
    logits_BV, cache, mask_BP, positions_B = _prefill(policy, prompts, room)
    rows = torch.arange(len(prompts), device=policy.device)  # batch row -> completion; shrinks at a compaction
    eos_E = torch.tensor(policy.eos_ids, device=policy.device)
    running_B = torch.ones(len(prompts), dtype=torch.bool, device=policy.device)
    for step in range(sampling.max_completion_length):
        tokens_B = _sample_and_record(logits_BV, draws_BT[rows, step], sampling, completions, rows, running_B)
        ended_B = running_B & torch.isin(tokens_B, eos_E)
        for row in rows[ended_B].tolist():
            completions[row].finish_reason = "eos"
        running_B = running_B & ~ended_B
        num_running = int(running_B.sum())
        if num_running == 0 or step + 1 == sampling.max_completion_length:
            return
        if num_running < _COMPACT_BELOW * len(rows):
            kept = running_B.nonzero().squeeze(1)
            cache.batch_select_indices(kept)
            rows, tokens_B, mask_BP, positions_B = rows[kept], tokens_B[kept], mask_BP[kept], positions_B[kept]
            running_B = running_B[kept]
        mask_BP = torch.cat([mask_BP, mask_BP.new_ones(len(rows), 1)], dim=1)
        output = policy.causal_lm(
            input_ids=tokens_B[:, None],
            attention_mask=mask_BP,
            position_ids=positions_B[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits_BV, positions_B = output.logits[:, -1], positions_B + 1


def _prefill(policy: Policy, prompts: list[Sequence[int]], room: int) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
    """Logits after the last prompt token, the cache with `room` to grow, its mask and the next position of each row."""
    shared = shared_prefix(prompts)
    prefix = DynamicCache(config=policy.causal_lm.config)
    groups = like_lengths([len(prompt) for prompt in prompts]) if can_join(prefix) else [slice(0, len(prompts))]
    if shared:
        ids = torch.tensor([list(prompts[0][:shared])], device=policy.device)
        policy.causal_lm(input_ids=ids, past_key_values=prefix, use_cache=True, logits_to_keep=1)
    parts = [_prefill_group(policy, prompts[group], shared, deepcopy(prefix)) for group in groups]
    width = max(mask_BP.shape[1] for _, _, mask_BP, _ in parts)
    logits, caches, masks, positions = zip(*parts, strict=True)
    mask_BP = torch.cat([torch.nn.functional.pad(mask_BP, (width - mask_BP.shape[1], 0)) for mask_BP in masks])
    cache = join(caches, room) if can_join(caches[0]) else caches[0]
    return torch.cat(logits), cache, mask_BP, torch.cat(positions)


def _prefill_group(
    policy: Policy, prompts: list[Sequence[int]], shared: int, cache: DynamicCache
) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
    """The same for rows in one forward pass, after the `shared` tokens that `cache` holds."""
    cache.batch_repeat_interleave(len(prompts))
    width = max(len(prompt) for prompt in prompts) - shared
    ids_BP = torch.zeros(len(prompts), width, dtype=torch.long)
    mask_BP = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        suffix = list(prompt[shared:])
        ids_BP[row, width - len(suffix) :] = torch.tensor(suffix)
        mask_BP[row, width - len(suffix) :] = 1
    ids_BP, mask_BP = ids_BP.to(policy.device), mask_BP.to(policy.device)
    positions_BP = (shared + mask_BP.cumsum(1) - 1).clamp(min=0)
    mask_BP = torch.cat([mask_BP.new_ones(len(prompts), shared), mask_BP], dim=1)
    output = policy.causal_lm(
        input_ids=ids_BP,
        attention_mask=mask_BP,
        position_ids=positions_BP,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1], cache, mask_BP, positions_BP[:, -1] + 1


def _sample_and_record(
    logits_BV: Tensor,
    draws_B: Tensor,
    sampling: Sampling,
    completions: list[Completion],
    rows: Tensor,
    running_B: Tensor,
) -> Tensor:
    logprobs_BV = torch.log_softmax(logits_BV.float(), dim=-1)
    probs_BV = logprobs_BV.exp()
    if sampling.temperature == 0.0:
        tokens_B = logprobs_BV.argmax(-1)
        sampling_B = torch.zeros_like(draws_B, dtype=torch.float32)
    else:
        filtered_BV = _sampling_logprobs(logits_BV.float(), sampling)
        tokens_B = _inverse_cdf(filtered_BV, draws_B)
        sampling_B = filtered_BV.gather(1, tokens_B[:, None]).squeeze(1)
    chosen_B = logprobs_BV.gather(1, tokens_B[:, None]).squeeze(1)
    entropy_B = -torch.special.xlogy(probs_BV, probs_BV).sum(-1)
    top_ids = top_logprobs = tail = None
    if sampling.record_top_k:
        top = logprobs_BV.topk(min(sampling.record_top_k, logprobs_BV.shape[-1]), dim=-1)
        top_logprobs, top_ids = top.values.cpu().numpy(), top.indices.to(torch.int32).cpu().numpy()
        # Summing what is left keeps small tails exact; 1 - sum(top) would leave only rounding noise.
        tail = probs_BV.scatter(1, top.indices, 0.0).sum(-1).tolist()
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


def _sampling_logprobs(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities drawn from: temperature, then top-k, then top-p on what is left, renormalised."""
    logprobs_BV = torch.log_softmax(logits_BV / sampling.temperature, dim=-1)
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
    cumulative_BV = logprobs_BV.double().exp().cumsum(-1)
    target_B1 = (draws_B.double() * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(1).clamp(max=logprobs_BV.shape[-1] - 1)


def _draws(seeds: list[int], length: int) -> Tensor:
    """Uniform draws in [0, 1), one row per seed; the first n are the same whatever the length."""
    rows = [torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows)


def _check_lengths(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
    longest = max((len(prompt) for prompt in prompts), default=0)
    if any(len(prompt) == 0 for prompt in prompts):
        raise DataError("a prompt has no tokens; the chat template or the question column is empty.")
    if longest + sampling.max_completion_length > policy.max_positions:
        raise DataError(
            f"a prompt of {longest} tokens plus max_completion_length={sampling.max_completion_length} exceeds the "
            f"model's context of {policy.max_positions} tokens. Lower rollout.max_completion_length or prompts.max_prompt_length."
        )
