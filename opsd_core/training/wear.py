"""Are stored completions still like what the policy would write? Measured on them, in one forward pass, and judged by limits.

    overlap_top_k          mean over positions of |recorded top k of who sampled & top k of the present policy| / k
    effective_sample_size  (sum r)^2 / (N sum r^2) of the clipped importance ratios r of the sampled tokens, as
                           rollout_corr/rollout_is_eff_sample_size; 1 = every token counts alike

Both are 1 while the policy is the one that sampled. The overlap sees where the distributions went, the sample size how unequally
the correction weighs the tokens that were drawn; neither needs the other.

Source: one sampling for many steps, as in arXiv:2610.11291, of which only the abstract was read; the sample size as the sign of a
correction that fails, arXiv:2602.17616.

N = completion tokens, K = recorded entries of a position
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from opsd_core.config import CampaignConfig
from opsd_core.models.forward import completion_hidden, microbatches
from opsd_core.models.policy import Policy
from opsd_core.objective.plain import ROWS_PER_TILE, project
from opsd_core.objective.ratios import effective_sample_size
from opsd_core.records.rollouts import Rollout
from opsd_core.training.importance import importance_ratio, old_logprobs, old_temperature

MEASURED = 256
"""Completions that are looked at, spread over all of them."""


class Wear(NamedTuple):
    """How far the policy has moved away from the one that sampled, on `num_tokens` tokens."""

    overlap_top_k: float
    effective_sample_size: float
    num_tokens: int


def spread(num_items: int, most: int = MEASURED) -> list[int]:
    """`most` numbers below `num_items` at equal distances, first and last among them; all where there are no more."""
    if num_items <= most:
        return list(range(num_items))
    return [round(place * (num_items - 1) / (most - 1)) for place in range(most)]


@torch.no_grad()
def measure_wear(policy: Policy, rollouts: Sequence[Rollout], config: CampaignConfig) -> Wear:
    """`policy` against whoever sampled `rollouts`, reference texts left out; both are 1 where nothing was sampled.

    config: as it was in force when they were sampled.
    """
    sampled = [rollout for rollout in rollouts if rollout.source == "policy" and rollout.completion_ids]
    lengths = [len(rollout.prompt_ids) + len(rollout.completion_ids) for rollout in sampled]
    shared, ratios = [], []
    for rows in microbatches(lengths, config.execution.microbatch_tokens):
        for overlap_N, ratio_N in _compared(policy, [sampled[row] for row in rows], config):
            shared.append(overlap_N)
            ratios.append(ratio_N)
    if not ratios:
        return Wear(1.0, 1.0, 0)
    ratio_N = np.concatenate(ratios).astype(np.float64)
    size = effective_sample_size(float(ratio_N.sum()), float(np.square(ratio_N).sum()), len(ratio_N))
    return Wear(float(np.concatenate(shared).mean(dtype=np.float64)), size, len(ratio_N))


def _compared(policy: Policy, batch: Sequence[Rollout], config: CampaignConfig) -> list[tuple[np.ndarray, np.ndarray]]:
    """A tile of positions after the other: share of the top k that both sides have (N,), importance ratio (N,)."""
    device, completions = policy.device, [rollout.completion_ids for rollout in batch]
    hidden_NH = completion_hidden(policy, [rollout.prompt_ids for rollout in batch], completions)
    if any(rollout.sampled_T is not None for rollout in batch):  # an environment's tokens say nothing about the policy
        own_N = np.concatenate([np.ones(len(r.completion_ids), bool) if r.sampled_T is None else r.sampled_T for r in batch])
        hidden_NH = hidden_NH[torch.from_numpy(own_N).to(device)]
    tokens_N = torch.tensor([token for r in batch for token in r.own(np.asarray(r.completion_ids)).tolist()], device=device)
    old_N = torch.from_numpy(np.concatenate([r.own(old_logprobs(r, config.rollout)) for r in batch])).to(device)
    k = min(rollout.topk_ids_TK.shape[1] for rollout in batch)
    ids_NK = torch.from_numpy(np.concatenate([rollout.own(rollout.topk_ids_TK)[:, :k] for rollout in batch])).to(device)
    temperature, found = old_temperature(config.rollout), []
    tiles = (column.split(ROWS_PER_TILE) for column in (hidden_NH, tokens_N, old_N, ids_NK))
    for tile_NH, drawn_N, before_N, recorded_NK in zip(*tiles, strict=True):
        logprobs_NV = project(tile_NH, policy.head, temperature)
        present_NK = logprobs_NV.topk(k, dim=-1).indices
        overlap_N = (recorded_NK[:, :, None] == present_NK[:, None, :]).any(-1).float().mean(-1)
        now_N = logprobs_NV.gather(1, drawn_N[:, None]).squeeze(1)
        ratio_N = importance_ratio(now_N.float(), before_N, config.token_weights.importance_clip)
        found.append((overlap_N.cpu().numpy(), ratio_N.cpu().numpy()))
    return found


class Judgement(NamedTuple):
    """Whether completions are learned from once more, and why."""

    keep: bool
    reason: str


def judge_age(config: CampaignConfig, age: int, same_sampling: bool) -> Judgement | None:
    """The judgement that needs no measurement; None where one is needed.

    age: iterations since they were sampled. same_sampling: the settings that they were sampled with are in force.
    """
    refresh, allowed = config.rollout.refresh, config.token_weights.max_staleness
    if refresh == "every_iteration" or config.rollout.on_policy_fraction == 0.0:
        return Judgement(False, "nothing is to be saved")
    if refresh == "overlap" and not same_sampling:
        return Judgement(False, "settings of rollout changed")
    if refresh == "overlap" and age > allowed:
        return Judgement(False, f"{age} iterations old, token_weights.max_staleness={allowed}")
    return None


def judge_wear(config: CampaignConfig, wear: Wear) -> Judgement:
    """Whether completions that may be kept are worn out; with refresh=initial they never are."""
    limits = config.rollout
    found = f"top-k overlap {wear.overlap_top_k:.3f}, effective sample size {wear.effective_sample_size:.3f}"
    if limits.refresh == "initial":
        return Judgement(True, f"rollout.refresh=initial; {found}")
    if wear.overlap_top_k < limits.min_overlap:
        return Judgement(False, f"{found}; rollout.min_overlap={limits.min_overlap}")
    if wear.effective_sample_size < limits.min_effective_sample_size:
        return Judgement(False, f"{found}; rollout.min_effective_sample_size={limits.min_effective_sample_size}")
    return Judgement(True, found)
