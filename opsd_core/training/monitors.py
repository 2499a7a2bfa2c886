"""What is watched while a campaign runs, under the names the field uses.

token_metrics       one optimiser step   kl/*, clip/*, actor/entropy, teacher/entropy, entropy_gap; nll/* without a teacher
stop_metrics        the same step        stop/p_at_stop, stop/gap
overlap_ratio       recorded targets against the policy's own top-k
last_quarter        an iteration's steps, for a report

Samples are watched in `opsd_core.selection.monitors`.

N = completion tokens
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from opsd_core.config import DistillationConfig
from opsd_core.objective import ObjectiveResult
from opsd_core.records.keys import ByKey, Key, Keys
from opsd_core.records.rollouts import Rollout
from opsd_core.records.sums import mean_of_parts
from opsd_core.records.targets import Target
from opsd_core.selection.monitors import Metrics

_CHANGED = 1e-6
"""Nats, relative above 1, below which float32 may differ by itself."""


def column(results: Sequence[ObjectiveResult], name: str) -> Tensor:
    """One column of all results together (N,), float32 on the CPU."""
    return torch.cat([getattr(result, name) for result in results]).float().cpu()


def bound_change(results: Sequence[ObjectiveResult], config: DistillationConfig) -> Tensor:
    """By how much the bound changed each token's value (N,), in nats before `value_scale`; 0 within rounding."""
    divergence_N = column(results, "divergence_N")
    change_N = column(results, "bounded_N") / config.value_scale - divergence_N
    return change_N.masked_fill(change_N.abs() <= _CHANGED * (1.0 + divergence_N.abs()), 0.0)


def token_metrics(results: Sequence[ObjectiveResult], counted_N: Tensor, config: DistillationConfig) -> Metrics:
    """Means over the tokens that count.

    clip/token_fraction  share of tokens whose divergence the bound changed
    clip/entry_mass      what the bound changed of the divergence, over all divergence; both without their signs
    """
    divergence_N, student_N = (column(results, name)[counted_N] for name in ("divergence_N", "student_entropy_N"))
    if results[0].teacher_entropy_N is None:
        return _spread("nll", divergence_N) | {"actor/entropy": student_N.mean().item()}
    teacher_N, change_N = column(results, "teacher_entropy_N")[counted_N], bound_change(results, config)[counted_N].abs()
    return _spread("kl", divergence_N) | {
        "clip/token_fraction": (change_N > 0).float().mean().item(),
        "clip/entry_mass": (change_N.sum() / divergence_N.abs().sum().clamp(min=1e-12)).item(),
        "actor/entropy": student_N.mean().item(),
        "teacher/entropy": teacher_N.mean().item(),
        "entropy_gap": (student_N - teacher_N).mean().item(),
    }


def stop_metrics(results: Sequence[ObjectiveResult], stopped_N: Tensor) -> Metrics:
    """Means over the counted tokens at which the policy ended its completion; nothing where it ended none.

    stop/p_at_stop  the policy's probability of ending there
    stop/gap        log T - log S of ending there, as the objective sees it: far below 0 where the teacher ends with another
                    token and distillation.merge_stop=off; without a teacher, or its log-probabilities, left out
    """
    if not stopped_N.any():
        return {}
    own = [r.logprobs_N if r.event_logprobs_N is None else r.event_logprobs_N for r in results]
    own_N = torch.cat(own).float().cpu()[stopped_N]
    found = {"stop/p_at_stop": own_N.exp().mean().item()}
    if all(r.teacher_logprobs_N is not None for r in results):
        teachers_N = torch.cat([r.teacher_logprobs_N for r in results]).float().cpu()[stopped_N]
        found["stop/gap"] = (teachers_N - own_N).mean().item()
    return found


def _spread(name: str, values_N: Tensor) -> Metrics:
    return {
        f"{name}/mean": values_N.mean().item(),
        f"{name}/p50": values_N.quantile(0.5).item(),
        f"{name}/p99": values_N.quantile(0.99).item(),
    }


def overlap_ratio(rollouts: Sequence[Rollout], targets: Sequence[Target]) -> Metrics:
    """distillation/overlap_ratio: mean over tokens of |top-k(policy) & top-k(teacher)| / k, k the smaller of both.

    The policy is the one that sampled. Empty when either side recorded nothing. Source: verl `distillation/overlap_ratio`.
    """
    scored = ByKey(Keys.of(target.key for target in targets), targets.__getitem__)
    size = sum(len(own_TK) for own_TK, _ in _both_top(rollouts, scored))
    shares = ((own[:, :, None] == teachers[:, None, :]).any(-1).mean(-1) for own, teachers in _both_top(rollouts, scored))
    return {"distillation/overlap_ratio": mean_of_parts(shares, size)} if size else {}


def _both_top(rollouts: Iterable[Rollout], scored: Mapping[Key, Target]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of every completion with targets the ids of its top k and the teacher's at the policy's tokens, each (T, k)."""
    for rollout in rollouts:
        target = scored.get(rollout.key)
        k = 0 if target is None else min(rollout.topk_ids_TK.shape[1], target.topk_ids_TK.shape[1])
        if k:
            own_TK, teachers_TK = rollout.own(rollout.topk_ids_TK)[:, :k], rollout.own(target.topk_ids_TK)[:, :k]
            if target.stop_layout:  # the teacher's end tokens are one entry
                own_TK = np.where(np.isin(own_TK, target.stop_layout), target.stop_layout[0], own_TK)
            yield own_TK, teachers_TK


_REPORTED = ("distillation/loss", "kl/mean", "nll/mean", "actor/entropy", "optim/grad_norm", "stop/p_at_stop", "stop/gap")


def last_quarter(steps: Sequence[Metrics]) -> Metrics:
    """Means over the last quarter of the steps of what a report shows, the first loss, and all tokens trained on.

    What settings altered (bite/*) is the mean over all steps.
    """
    tail = steps[-max(1, len(steps) // 4) :]
    means = {}
    for name in _REPORTED:
        if values := [step[name] for step in tail if name in step]:
            means[name] = sum(values) / len(values)
    bites = sorted(name for name in steps[0] if name.startswith("bite/"))
    means |= {name: sum(step[name] for step in steps) / len(steps) for name in bites}
    return means | {
        "distillation/first_loss": steps[0]["distillation/loss"],
        "tokens/trained": sum(step["tokens/trained"] for step in steps),
    }


def token_means(parts: Sequence[tuple[int, Metrics]]) -> Metrics:
    """Means over the tokens of several parts, each given as (tokens, metrics); a part without a metric does not count."""
    means = {}
    for name in sorted({name for _, metrics in parts for name in metrics}):
        having = [(tokens, metrics[name]) for tokens, metrics in parts if name in metrics]
        means[name] = sum(tokens * value for tokens, value in having) / max(sum(tokens for tokens, _ in having), 1)
    return means
