"""Batched sampling with the distribution at every position.

B = completions decoded together, C = completions, T = tokens of a completion, V = vocabulary, P = positions so far

What makes it fast on mixed-length prompts: prompts are sorted by length and prefilled in groups of like length, the prefix
that all or many of them share (system message, a task's own words) is computed once, as is a prompt of which several
completions are sampled, and the next prompts take the places of completions that have ended, so a decoding step is rarely
spent on a few stragglers.
What makes it reproducible: each completion draws from its own generator, seeded by name, so neither order nor neighbours
decide what is drawn.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from opsd_core.errors import DataError
from opsd_core.models.forward import shared_prefix
from opsd_core.models.paths import accepts
from opsd_core.models.policy import Policy
from opsd_core.rollout.kv_cache import can_join, join, like_lengths, new_cache, pad_left
from opsd_core.rollout.plain import generate_plain
from opsd_core.rollout.sampling import Completion, Sampling, sample_and_record, uniform_draws

_MIN_LONGER, _MIN_FAMILY = 4, 16
"""Tokens and prompts from which computing a shared prefix once pays for a forward pass of its own."""
_RENEW_BELOW = 0.75
"""Share of running rows under which ended ones make room: copying the cache costs about a quarter of a step."""


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
    DataError as `check_lengths`.
    """
    check_lengths(policy, prompts, sampling)
    if not prompts:
        return []
    draws_CT = uniform_draws(seeds, sampling.max_completion_length).to(policy.device)
    if policy.paths.sampling not in ("fast", "aligned"):
        return generate_plain(policy, prompts, draws_CT, sampling, batch_size, on_progress)
    completions = [Completion() for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), list(prompts[index]), index))
    prefixes = _prefixes(policy, prompts)
    eos_E = torch.tensor(policy.eos_ids, device=policy.device)
    batch, taken = None, 0
    while batch is not None or taken < len(order):
        if taken < len(order) and (batch is None or batch.can_grow):
            free = batch_size - (0 if batch is None else len(batch.rows))
            following = order[taken : taken + free]
            taken += len(following)
            started = _prefill(policy, following, prompts, prefixes, sampling)
            batch = started if batch is None else batch.joined(started, sampling.max_completion_length)
        batch = _decode(policy, batch, draws_CT, eos_E, sampling, completions, waiting=taken < len(order))
        if on_progress and (batch is None or batch.renewed):
            on_progress(taken - (0 if batch is None else len(batch.rows)), len(order))
    return completions


@dataclass
class _Batch:
    """Completions in flight, one per row; row b has drawn `steps_B[b]` tokens."""

    rows: Tensor
    """(B,) indices of the completions."""
    logits_BV: Tensor
    """Of each row's next token."""
    cache: DynamicCache
    mask_BP: Tensor
    positions_B: Tensor
    steps_B: Tensor
    renewed: bool = True
    """Ended rows have just left."""

    @property
    def can_grow(self) -> bool:
        """Whether further prompts can join now."""
        return self.renewed and can_join(self.cache)

    def joined(self, other: "_Batch", room: int) -> "_Batch":
        """Both as one batch; leading columns that no row of this one uses any more are left out."""
        unused = int(self.mask_BP.any(0).int().argmax())
        return _Batch(
            torch.cat([self.rows, other.rows]),
            torch.cat([self.logits_BV, other.logits_BV]),
            join([self.cache, other.cache], room, unused),
            pad_left([self.mask_BP[:, unused:], other.mask_BP]),
            torch.cat([self.positions_B, other.positions_B]),
            torch.cat([self.steps_B, other.steps_B]),
        )


def _decode(
    policy: Policy,
    batch: _Batch,
    draws_CT: Tensor,
    eos_E: Tensor,
    sampling: Sampling,
    completions: list[Completion],
    *,
    waiting: bool,
) -> _Batch | None:
    """Steps until ended rows have left and made room, or None when all have ended."""
    running_B = torch.ones(len(batch.rows), dtype=torch.bool, device=policy.device)
    while True:
        draws_B = draws_CT[batch.rows, batch.steps_B.clamp(max=draws_CT.shape[1] - 1)]
        tokens_B = sample_and_record(batch.logits_BV, draws_B, sampling, completions, batch.rows, running_B)
        batch.steps_B = batch.steps_B + 1
        ended_B = running_B & torch.isin(tokens_B, eos_E)
        for row in batch.rows[ended_B].tolist():
            completions[row].finish_reason = "eos"
        running_B = running_B & ~ended_B & (batch.steps_B < sampling.max_completion_length)
        num_running = int(running_B.sum())
        if num_running == 0:
            return None
        batch.renewed = num_running < _RENEW_BELOW * len(batch.rows)
        if batch.renewed:
            kept = running_B.nonzero().squeeze(1)
            batch.cache.batch_select_indices(kept)
            tokens_B, running_B = tokens_B[kept], running_B[kept]
            batch.rows, batch.steps_B = batch.rows[kept], batch.steps_B[kept]
            batch.mask_BP, batch.positions_B = batch.mask_BP[kept], batch.positions_B[kept]
        batch.mask_BP = torch.cat([batch.mask_BP, batch.mask_BP.new_ones(len(batch.rows), 1)], dim=1)
        output = policy.causal_lm(
            input_ids=tokens_B[:, None],
            attention_mask=batch.mask_BP,
            **_positions(policy, batch.positions_B[:, None]),
            past_key_values=batch.cache,
            use_cache=True,
        )
        batch.logits_BV, batch.positions_B = output.logits[:, -1], batch.positions_B + 1
        if batch.renewed and waiting:
            return batch


@dataclass(eq=False)
class _Prefix:
    """Tokens that several prompts begin with, computed once: their number and a cache of one row."""

    length: int
    cache: DynamicCache

    def longer(self, policy: Policy, prompts: Sequence[Sequence[int]]) -> "_Prefix":
        """What all of `prompts` share, computed from here on; itself when that is not enough to pay."""
        ids = list(prompts[0][self.length : shared_prefix(prompts)])
        if len(ids) < _MIN_LONGER:
            return self
        longer = _Prefix(self.length + len(ids), deepcopy(self.cache))
        policy.causal_lm(
            input_ids=torch.tensor([ids], device=policy.device), past_key_values=longer.cache, use_cache=True, logits_to_keep=1
        )
        return longer


def _prefixes(policy: Policy, prompts: Sequence[Sequence[int]]) -> list[_Prefix]:
    """Of each prompt the prefix that it shares with all others, or with the many that continue as it does."""
    whole = _Prefix(0, new_cache(policy.causal_lm.config)).longer(policy, prompts)
    found = [whole] * len(prompts)
    if not can_join(whole.cache):
        return found
    families: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        families.setdefault(tuple(prompt[whole.length : whole.length + _MIN_LONGER]), []).append(row)
    for rows in families.values():
        if _MIN_FAMILY <= len(rows) < len(prompts):
            longer = whole.longer(policy, [prompts[row] for row in rows])
            for row in rows:
                found[row] = longer
    return found


def _prefill(
    policy: Policy, rows: Sequence[int], prompts: Sequence[Sequence[int]], prefixes: Sequence[_Prefix], sampling: Sampling
) -> _Batch:
    """The prompts of `rows`, which are sorted by length, up to their last token."""
    aligned = policy.paths.sampling == "aligned"  # no padding between the prefix and the rest of a prompt
    groups: list[list[int]] = []
    for prefix in dict.fromkeys(prefixes[row] for row in rows):
        family = [row for row in rows if prefixes[row] is prefix]
        lengths = [len(prompts[row]) - prefix.length for row in family]
        limits = {"max_padding": 0.0, "min_tokens": 0} if aligned and prefix.length else {}
        groups += [family[part] for part in like_lengths(lengths, **limits)]
    if not can_join(prefixes[rows[0]].cache):
        groups = [list(rows)]
    parts = [_prefill_group(policy, [prompts[row] for row in group], prefixes[group[0]]) for group in groups]
    logits, caches, masks, positions = zip(*parts, strict=True)
    return _Batch(
        rows=torch.tensor([row for group in groups for row in group], device=policy.device),
        logits_BV=torch.cat(logits),
        cache=join(caches, sampling.max_completion_length) if can_join(caches[0]) else caches[0],
        mask_BP=pad_left(masks),
        positions_B=torch.cat(positions),
        steps_B=torch.zeros(len(rows), dtype=torch.long, device=policy.device),
    )


def _prefill_group(
    policy: Policy, prompts: Sequence[Sequence[int]], prefix: _Prefix
) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
    """The same for prompts in one forward pass, after the prefix that they share; equal prompts are one row of it."""
    shared, cache = prefix.length, deepcopy(prefix.cache)
    prompts, places = _distinct(prompts)
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
        **_positions(policy, positions_BP),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits_BV, next_B = output.logits[:, -1], positions_BP[:, -1] + 1
    if len(places) > len(prompts):
        rows = torch.tensor(places, device=policy.device)
        cache.batch_select_indices(rows)
        logits_BV, mask_BP, next_B = logits_BV[rows], mask_BP[rows], next_B[rows]
    return logits_BV, cache, mask_BP, next_B


def _positions(policy: Policy, positions_BP: Tensor) -> dict[str, Tensor]:
    """As an argument, where the model takes it; one that does not counts the mask."""
    return {"position_ids": positions_BP} if accepts(policy.causal_lm, "position_ids") else {}


def _distinct(prompts: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], list[int]]:
    """Each different prompt once, in order of first appearance, and the place of every given one among them."""
    found: dict[tuple[int, ...], int] = {}
    places = [found.setdefault(tuple(prompt), len(found)) for prompt in prompts]
    return list(found), places


def check_lengths(
    policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sampling, limit: str = "rollout.max_completion_length"
) -> None:
    """DataError when a prompt is empty or leaves no room in the model's context; `limit` is the setting that it names."""
    longest = max((len(prompt) for prompt in prompts), default=0)
    if any(len(prompt) == 0 for prompt in prompts):
        raise DataError("a prompt has no tokens; the chat template or the question column is empty.")
    if longest + sampling.max_completion_length > policy.max_positions:
        raise DataError(
            f"a prompt of {longest} tokens plus {limit}={sampling.max_completion_length} exceeds the "
            f"model's context of {policy.max_positions} tokens. Lower {limit} or prompts.max_prompt_length."
        )
