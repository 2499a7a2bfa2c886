"""Sampling that is right for any causal model: prompts of one length at a time, so nothing is padded, masked or shared.

The model keeps its own cache, or state, between steps; a model that has none reads the whole sequence at every step.

B = completions decoded together, C = completions, T = tokens of a completion, P = tokens so far
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from opsd_core.models.paths import accepts, takes_use_cache
from opsd_core.models.policy import Policy
from opsd_core.rollout.sampling import Completion, Sampling, sample_and_record

_STATES = ("past_key_values", "cache_params")
"""What models call the cache that they return and take again."""
_RENEW_BELOW = 0.75
"""Share of running rows under which ended ones leave the batch."""


def generate_plain(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    draws_CT: Tensor,
    sampling: Sampling,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """One completion per prompt, in the order of `prompts`; `draws_CT` decides what each draws."""
    completions = [Completion() for _ in prompts]
    done = 0
    for rows in _groups(prompts, 1 if policy.paths.sampling == "alone" else batch_size):
        _lockstep(policy, prompts, rows, draws_CT, sampling, completions)
        done += len(rows)
        if on_progress:
            on_progress(done, len(prompts))
    return completions


def _groups(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Rows of one length, at most `batch_size` at a time, short ones first."""
    lengths: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        lengths.setdefault(len(prompt), []).append(row)
    for length in sorted(lengths):
        rows = lengths[length]
        yield from (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))


def _lockstep(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[int],
    draws_CT: Tensor,
    sampling: Sampling,
    completions: list[Completion],
) -> None:
    """Decode these rows together until all have ended; rows that have ended leave where the cache can let them go."""
    eos_E = torch.tensor(policy.eos_ids, device=policy.device)
    rows_B = torch.tensor(rows, device=policy.device)
    ids_BP = torch.tensor([list(prompts[row]) for row in rows], device=policy.device)
    running_B = torch.ones(len(rows), dtype=torch.bool, device=policy.device)
    cached = policy.paths.sampling == "lockstep"
    state: dict[str, Cache] = {}
    for step in range(sampling.max_completion_length):
        output = _forward(policy, ids_BP, state, cached)
        state = _state(output) if cached else {}
        tokens_B = sample_and_record(output.logits[:, -1], draws_CT[rows_B, step], sampling, completions, rows_B, running_B)
        ended_B = running_B & torch.isin(tokens_B, eos_E)
        for row in rows_B[ended_B].tolist():
            completions[row].finish_reason = "eos"
        running_B = running_B & ~ended_B
        num_running = int(running_B.sum())
        if num_running == 0:
            return
        ids_BP = torch.cat([ids_BP, tokens_B[:, None]], dim=1)
        if num_running < _RENEW_BELOW * len(rows_B) and _can_select(state):
            kept = running_B.nonzero().squeeze(1)
            _select(state, kept)
            rows_B, ids_BP, running_B = rows_B[kept], ids_BP[kept], running_B[kept]


def _forward(policy: Policy, ids_BP: Tensor, state: dict[str, Cache], cached: bool) -> Any:
    model, options = policy.causal_lm, dict(state)
    if cached or takes_use_cache(model):
        options["use_cache"] = cached
    if accepts(model, "logits_to_keep"):
        options["logits_to_keep"] = 1
    if state:  # only the new token is read; not every model counts what its cache holds
        if accepts(model, "position_ids"):
            options["position_ids"] = torch.full((len(ids_BP), 1), ids_BP.shape[1] - 1, device=ids_BP.device)
        ids_BP = ids_BP[:, -1:]
    return model(input_ids=ids_BP, **options)


def _state(output: Any) -> dict[str, Cache]:
    """What the next step continues from; empty where the model returns no cache of transformers' kind."""
    return next(({name: output[name]} for name in _STATES if isinstance(output.get(name), Cache)), {})


def _can_select(state: dict[str, Cache]) -> bool:
    """A family's own kind of cache may hold states that transformers' reordering does not know."""
    return all(type(cache).__module__ == Cache.__module__ for cache in state.values())


def _select(state: dict[str, Cache], kept_B: Tensor) -> None:
    """Keep these rows."""
    for cache in state.values():
        cache.reorder_cache(kept_B)
