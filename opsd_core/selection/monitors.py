"""What is watched of an iteration's samples, under the names the field uses.

completion_metrics  rollouts    completions/*, rollout/*, rep_rate, leak_count, epistemic_tokens, ...
target_metrics      decisions   self_distillation/empty_target_batch
"""

import re
from collections.abc import Sequence

import numpy as np

from opsd_core.records.rollouts import Rollout
from opsd_core.selection.filters import repetition_factor

Metrics = dict[str, float]
_EPISTEMIC = re.compile(
    r"\b(?:wait|hmm+|alternatively|perhaps|maybe|actually|let me (?:check|verify|re-?check|reconsider|think)|"
    r"on second thought|double[- ]check)\b",
    re.IGNORECASE,
)
"""Words of doubt and checking; their loss is the epistemic suppression of arXiv:2603.24472."""


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

    `kept` has one entry per completion: it passed the filters, and a teacher that is shown a context has one to see.
    Source: SDPO's metric of the same name.
    """
    return {"self_distillation/empty_target_batch": float(not any(kept))}


def epistemic_tokens(text: str) -> int:
    """How many expressions of doubt or checking a text holds."""
    return len(_EPISTEMIC.findall(text))
