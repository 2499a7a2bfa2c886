"""What is watched of an iteration's samples, under the names the field uses.

completion_metrics  rollouts    completions/*, rollout/*, rep_rate, leak_count, epistemic_tokens, ...
target_metrics      decisions   self_distillation/empty_target_batch
"""

import re
from array import array
from collections.abc import Iterable

import numpy as np

from opsd_core.records.rollouts import Rollout
from opsd_core.records.sums import mean_of_parts
from opsd_core.selection.filters import repetition_factor

Metrics = dict[str, float]
_EPISTEMIC = re.compile(
    r"\b(?:wait|hmm+|alternatively|perhaps|maybe|actually|let me (?:check|verify|re-?check|reconsider|think)|"
    r"on second thought|double[- ]check)\b",
    re.IGNORECASE,
)
"""Words of doubt and checking; their loss is the epistemic suppression of arXiv:2603.24472."""


def completion_metrics(rollouts: Iterable[Rollout], leaks: Iterable[bool], max_repetition: float) -> Metrics:
    """Lengths in tokens of the policy, shares of completions, mean counts of each; entropy in nats per token. {} without any.

    `rollouts` are gone through twice; a few numbers of each are kept.
    """
    lengths, truncated, repetitive, epistemic = array("q"), bytearray(), bytearray(), array("q")
    turns, talked = array("q"), False
    for rollout in rollouts:
        lengths.append(rollout.num_sampled)
        turns.append(rollout.num_turns)
        talked = talked or rollout.sampled_T is not None
        truncated.append(rollout.truncated)
        repetitive.append(repetition_factor(rollout.completion_text) > max_repetition)
        epistemic.append(epistemic_tokens(rollout.completion_text))
    if not lengths:
        return {}
    lengths_N, truncated_N, leaks_N = np.array(lengths), np.array(truncated, bool), np.fromiter(leaks, bool)
    metrics = {
        "completions/mean_length": float(lengths_N.mean()),
        "completions/min_length": float(lengths_N.min()),
        "completions/max_length": float(lengths_N.max()),
        "completions/clipped_ratio": float(truncated_N.mean()),
        "rollout/tokens": float(lengths_N.sum()),
        "rep_rate": float(np.array(repetitive, bool).mean()),
        "leak_count": float(leaks_N.sum()),
        "leak_rate": float(leaks_N.mean()),
        "epistemic_tokens": float(np.array(epistemic).mean()),
        "rollout/entropy": mean_of_parts((r.own(r.entropy_T) for r in rollouts), int(lengths_N.sum())),
    }
    if talked:
        metrics["rollout/turns"] = float(np.array(turns).mean())
    if not truncated_N.all():
        metrics["completions/mean_terminated_length"] = float(lengths_N[~truncated_N].mean())
    return metrics


def target_metrics(kept: Iterable[bool]) -> Metrics:
    """self_distillation/empty_target_batch: 1 when no completion of the iteration is left to train on, else 0.

    `kept` has one entry per completion: it passed the filters, and a teacher that is shown a context has one to see.
    Source: SDPO's metric of the same name.
    """
    return {"self_distillation/empty_target_batch": float(not any(kept))}


def epistemic_tokens(text: str) -> int:
    """How many expressions of doubt or checking a text holds."""
    return len(_EPISTEMIC.findall(text))
