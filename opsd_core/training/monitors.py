"""What is watched while a campaign runs, under the names the field uses.

token_metrics       one optimiser step   kl/*, clip/*, actor/entropy, teacher/entropy, entropy_gap; nll/* without a teacher
completion_metrics  one iteration's rollouts   completions/*, rollout/*, rep_rate, leak_count, epistemic_tokens, ...
target_metrics      one iteration's decisions  self_distillation/empty_target_batch
overlap_ratio       recorded targets against the policy's own top-k

N = completion tokens
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opsd_core.objective import ObjectiveResult
from opsd_core.records.rollouts import Rollout
from opsd_core.records.targets import Target
from opsd_core.selection.filters import repetition_factor

Metrics = dict[str, float]

_EPISTEMIC = re.compile(
    r"\b(?:wait|hmm+|alternatively|perhaps|maybe|actually|let me (?:check|verify|re-?check|reconsider|think)|"
    r"on second thought|double[- ]check)\b",
    re.IGNORECASE,
)
"""Words of doubt and checking; their loss is the epistemic suppression of arXiv:2603.24472."""


def token_metrics(results: Sequence[ObjectiveResult], counted_N: Tensor) -> Metrics:
    """Means over the tokens that count.

    clip/token_fraction  share of tokens whose divergence the bound changed
    clip/entry_mass      divergence that the bound took away, over all divergence
    """

    def column(name: str) -> Tensor:
        return torch.cat([getattr(result, name) for result in results]).float().cpu()[counted_N]

    divergence_N, bounded_N = column("divergence_N"), column("bounded_N")
    student_N = column("student_entropy_N")
    if results[0].teacher_entropy_N is None:
        return _spread("nll", divergence_N) | {"actor/entropy": student_N.mean().item()}
    teacher_N = column("teacher_entropy_N")
    cut_N = (divergence_N - bounded_N).clamp(min=0)
    return _spread("kl", divergence_N) | {
        "clip/token_fraction": (cut_N > 1e-6).float().mean().item(),
        "clip/entry_mass": (cut_N.sum() / divergence_N.abs().sum().clamp(min=1e-12)).item(),
        "actor/entropy": student_N.mean().item(),
        "teacher/entropy": teacher_N.mean().item(),
        "entropy_gap": (student_N - teacher_N).mean().item(),
    }


def _spread(name: str, values_N: Tensor) -> Metrics:
    return {
        f"{name}/mean": values_N.mean().item(),
        f"{name}/p50": values_N.quantile(0.5).item(),
        f"{name}/p99": values_N.quantile(0.99).item(),
    }


def completion_metrics(rollouts: Sequence[Rollout], leaks: Sequence[bool], max_repetition: float) -> Metrics:
    """Lengths in tokens, shares of completions, mean counts per completion; entropy in nats per token. {} without any."""
    if not rollouts:
        return {}
    lengths = np.array([len(r.completion_ids) for r in rollouts])
    truncated = np.array([r.truncated for r in rollouts])
    repetitive = [repetition_factor(r.completion_text) > max_repetition for r in rollouts]
    metrics = {
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(truncated.mean()),
        "rollout/tokens": float(lengths.sum()),
        "rep_rate": float(np.mean(repetitive)),
        "leak_count": float(sum(leaks)),
        "leak_rate": float(np.mean(leaks)),
        "epistemic_tokens": float(np.mean([epistemic_tokens(r.completion_text) for r in rollouts])),
        "rollout/entropy": float(np.concatenate([r.entropy_T for r in rollouts]).mean()),
    }
    if not truncated.all():
        metrics["completions/mean_terminated_length"] = float(lengths[~truncated].mean())
    return metrics


def target_metrics(kept: Sequence[bool]) -> Metrics:
    """self_distillation/empty_target_batch: 1 when no completion of the iteration is left to train on, else 0.

    `kept` has one entry per completion: it passed the gates, and a teacher that is shown a context has one to see.
    Source: SDPO's metric of the same name.
    """
    return {"self_distillation/empty_target_batch": float(not any(kept))}


def epistemic_tokens(text: str) -> int:
    """How many expressions of doubt or checking a text holds."""
    return len(_EPISTEMIC.findall(text))


def overlap_ratio(rollouts: Sequence[Rollout], targets: Sequence[Target]) -> Metrics:
    """distillation/overlap_ratio: mean over tokens of |top-k(policy) & top-k(teacher)| / k, k the smaller of both.

    The policy is the one that sampled. Empty when either side recorded nothing. Source: verl `distillation/overlap_ratio`.
    """
    scored = {target.key: target for target in targets}
    shares = []
    for rollout in rollouts:
        target = scored.get(rollout.key)
        if target is None:
            continue
        k = min(rollout.topk_ids_TK.shape[1], target.topk_ids_TK.shape[1])
        if k:
            own_TK, teachers_TK = rollout.topk_ids_TK[:, :k], target.topk_ids_TK[:, :k]
            shares.append((own_TK[:, :, None] == teachers_TK[:, None, :]).any(-1).mean(-1))
    return {"distillation/overlap_ratio": float(np.concatenate(shares).mean())} if shares else {}
