"""How far what an engine recorded is from what transformers gives the same tokens: measured, told, bounded.

Sampled tokens are computed again, in one forward pass over prompt and completion, in float32 from the last hidden state on: all
of them, or those of execution.checked_share of the completions.

    mismatch = mean |log pi_engine(y) - log pi(y)|      ratio = pi(y) / pi_engine(y)
    ess = (sum ratio)^2 / (N sum ratio^2)               1 = all tokens count alike

The ratio is corrected where staleness is: token_weights.importance_correction divides by the log-probability that the engine
recorded. Source: verl `rollout_is`, SkyRL.

B = completions, N = tokens of several completions, T = of one, V = vocabulary, K = recorded entries
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import ModelError
from opsd_core.models.forward import completion_hidden, microbatches
from opsd_core.models.policy import Policy
from opsd_core.objective.plain import ROWS_PER_TILE, project
from opsd_core.objective.ratios import MAX_LOG_RATIO, effective_sample_size
from opsd_core.records.rollouts import Rollout
from opsd_core.rollout.recorded import rounding_of
from opsd_core.rollout.sampling import Sampling, filtered

_ROUNDED_TAIL = 1e-4
"""Mass below which 1 - sum of the K entries is what rounding leaves of them."""


@dataclass(frozen=True)
class Mismatch:
    """Sums over sampled tokens, so that shards can be taken together."""

    num_tokens: int = 0
    absolute: float = 0.0
    """Of |log pi_engine - log pi|, in nats."""
    largest: float = 0.0
    signed: float = 0.0
    """Of log pi_engine - log pi: divided by the tokens, an estimate of KL(engine || transformers)."""
    ratio: float = 0.0
    squared_ratio: float = 0.0

    @classmethod
    def of(cls, recorded_N: np.ndarray, again_N: np.ndarray) -> "Mismatch":
        """Of the log-probabilities that an engine recorded and those that transformers gives."""
        gap_N = recorded_N.astype(np.float64) - again_N.astype(np.float64)
        ratio_N = np.exp(np.clip(-gap_N, -MAX_LOG_RATIO, MAX_LOG_RATIO))
        largest = float(np.abs(gap_N).max(initial=0.0))
        sums = (float(values.sum()) for values in (ratio_N, ratio_N * ratio_N))
        return cls(len(gap_N), float(np.abs(gap_N).sum()), largest, float(gap_N.sum()), *sums)

    @classmethod
    def together(cls, parts: Iterable["Mismatch"]) -> "Mismatch":
        """Of all their tokens."""
        whole = cls()
        for part in parts:
            sums = {name: value + getattr(whole, name) for name, value in asdict(part).items()}
            whole = cls(**sums | {"largest": float(np.maximum(whole.largest, part.largest))})
        return whole

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.absolute / max(self.num_tokens, 1)

    @property
    def effective(self) -> float:
        """The ratio's effective sample size, as a share of the tokens."""
        return effective_sample_size(self.ratio, self.squared_ratio, self.num_tokens)

    def metrics(self) -> dict[str, float]:
        """What is logged of an iteration."""
        return {
            "engine/mismatch": self.mean,
            "engine/mismatch_max": self.largest,
            "engine/mismatch_kl": self.signed / max(self.num_tokens, 1),
            "engine/is_eff_sample_size": self.effective,
        }

    def to_json(self) -> dict[str, float]:
        """The sums; `Mismatch(**stored)` is the inverse."""
        return asdict(self)


@torch.inference_mode()
def recomputed(policy: Policy, rollouts: Sequence[Rollout], config: CampaignConfig) -> tuple[list[Rollout], Mismatch]:
    """The rollouts with what an engine does not tell, and how far it is from transformers on every token that it sampled.

    Entropy, and a tail below what rounding leaves of the K entries, are transformers'. The distribution that was drawn from is
    taken of the engine's entries with transformers' for the rest of the vocabulary. References stay as they are. With a share
    below 1 all entropies are of the K entries with the tail as one event, and nothing else is changed.
    """
    whole, parts, share = list(rollouts), [], config.execution.checked_share
    sampled = [row for row, rollout in enumerate(rollouts) if rollout.source == "policy"]
    rows = sampled if share == 1.0 else drawn_rows(rollouts, sampled, share)
    if share < 1.0:
        whole = [replace(r, entropy_T=_coarse_entropy(r)) if r.source == "policy" else r for r in whole]
    lengths = [len(rollouts[row].prompt_ids) + len(rollouts[row].completion_ids) for row in rows]
    for group in microbatches(lengths, config.execution.microbatch_tokens):
        chosen = [rollouts[rows[place]] for place in group]
        hidden_NH = completion_hidden(policy, [r.prompt_ids for r in chosen], [r.completion_ids for r in chosen])
        columns = _columns(policy, hidden_NH, chosen, config)
        start = 0
        for place, rollout in zip(group, chosen, strict=True):
            stop = start + len(rollout.completion_ids)
            again_T, entropy_T, tail_T, drawn_T = (column[start:stop] for column in columns)
            parts.append(Mismatch.of(rollout.logprobs_T, again_T))
            if share == 1.0:
                tail_T = np.where(rollout.tail_mass_T < _ROUNDED_TAIL, tail_T, rollout.tail_mass_T).astype(np.float32)
                known = {"entropy_T": entropy_T, "tail_mass_T": tail_T, "sampling_logprobs_T": drawn_T}
                whole[rows[place]] = replace(rollout, **known)
            start = stop
    return whole, Mismatch.together(parts)


def drawn_rows(rollouts: Sequence[Rollout], sampled: Sequence[int], share: float) -> list[int]:
    """That share of `sampled`, at least one, by the keys of the completions alone."""
    order = sorted(sampled, key=lambda row: derive_seed("checked", *rollouts[row].key))
    return sorted(order[: math.ceil(share * len(order))])


def _coarse_entropy(rollout: Rollout) -> np.ndarray:
    """Entropy (T,) of the K entries and everything else as one event, in nats: never above the whole distribution's."""
    top_TK, tail_T = rollout.topk_logprobs_TK.astype(np.float64), np.maximum(rollout.tail_mass_T.astype(np.float64), 1e-30)
    return (-(np.exp(top_TK) * top_TK).sum(1) - tail_T * np.log(tail_T)).astype(np.float32)


def _columns(
    policy: Policy, hidden_NH: Tensor, rollouts: Sequence[Rollout], config: CampaignConfig
) -> list[np.ndarray]:
    """Log-probability, entropy and tail by transformers, and the log-probability of what was drawn: (N,) each, float32."""
    device = hidden_NH.device
    tokens_N = torch.tensor([token for rollout in rollouts for token in rollout.completion_ids], device=device)
    ids_NK = torch.from_numpy(np.concatenate([r.topk_ids_TK for r in rollouts]).astype(np.int64)).to(device)
    values_NK, recorded_N = (
        torch.from_numpy(np.concatenate([getattr(r, name) for r in rollouts])).to(device)
        for name in ("topk_logprobs_TK", "logprobs_T")
    )
    parts = []
    for start in range(0, len(tokens_N), ROWS_PER_TILE):
        tile = slice(start, start + ROWS_PER_TILE)
        logprobs_NV, token_N1 = project(hidden_NH[tile], policy.head, 1.0), tokens_N[tile, None]
        probs_NV = logprobs_NV.exp()
        entropy_N = -torch.linalg.vecdot(probs_NV, logprobs_NV)
        tail_N = probs_NV.scatter(1, ids_NK[tile], 0.0).sum(-1)
        known_NV = logprobs_NV.scatter(1, ids_NK[tile], values_NK[tile].to(logprobs_NV))
        known_NV = known_NV.scatter(1, token_N1, recorded_N[tile, None].to(logprobs_NV))
        drawn_N = drawn_logprobs(known_NV, token_N1, config)
        parts.append([logprobs_NV.gather(1, token_N1).squeeze(1), entropy_N, tail_N, drawn_N])
    return [torch.cat(column).float().cpu().numpy() for column in zip(*parts, strict=True)]


def drawn_logprobs(logprobs_NV: Tensor, token_N1: Tensor, config: CampaignConfig) -> Tensor:
    """log-probability (N,) of tokens under temperature, top-k and top-p of rollout, applied to untempered `logprobs_NV`.

    A token that was drawn belongs to what was kept, on whichever side of the limit rounding puts it here.
    """
    rollout = config.rollout
    if rollout.temperature == 1.0 and rollout.top_k == 0 and rollout.top_p == 1.0:
        return logprobs_NV.gather(1, token_N1).squeeze(1)
    tempered_NV = torch.log_softmax(logprobs_NV / rollout.temperature, dim=-1)
    kept_NV = filtered(tempered_NV, Sampling(rollout.temperature, rollout.top_p, rollout.top_k))
    mass_N1 = tempered_NV.masked_fill(kept_NV == -torch.inf, -torch.inf).logsumexp(-1, keepdim=True)
    own_N1 = tempered_NV.gather(1, token_N1)
    outside_N1 = kept_NV.gather(1, token_N1) == -torch.inf
    mass_N1 = torch.where(outside_N1, torch.logaddexp(mass_N1, own_N1), mass_N1)
    return (own_N1 - mass_N1).squeeze(1)


def check_mismatch(mismatch: Mismatch, dtype: torch.dtype, config: CampaignConfig, version: str) -> None:
    """ModelError when the mean is beyond execution.max_mismatch, or beyond what rounding explains where that is null."""
    bound = config.execution.max_mismatch
    explained = f"what rounding explains in {str(dtype).removeprefix('torch.')}" if bound is None else "the bound"
    limit = rounding_of(dtype) if bound is None else bound
    if not mismatch.mean <= limit:
        raise ModelError(
            f"{version} (execution.engine={config.execution.engine}) recorded log-probabilities that are off by "
            f"{mismatch.mean:.3g} nats per token from what transformers gives the same tokens (largest {mismatch.largest:.3g}, "
            f"effective sample size {mismatch.effective:.3f} over {mismatch.num_tokens:,} tokens), more than {explained}, "
            f"{limit:g}: execution.max_mismatch={'null' if bound is None else bound}. The engine computes this architecture in "
            "another way. Set execution.engine=transformers or model.dtype=float32; or raise execution.max_mismatch with "
            "token_weights.importance_correction=true."
        )
