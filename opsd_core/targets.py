"""Soft targets: the teacher's distribution at every completion position.

N = completion tokens, K = entries kept

Recorded targets hold the K most likely tokens, normalised over the full vocabulary, and the tail's log-mass. They are
computed once by a teacher that does not change during the iteration and are stored beside the rollouts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from opsd_core.batching import completion_hidden, microbatches
from opsd_core.errors import IntegrityError
from opsd_core.mixtures import Transform, truncate
from opsd_core.objective.plain import project
from opsd_core.objective.types import FullTargets, HiddenTargets, TopKTargets
from opsd_core.rollouts import Rollout, ragged, read_table, write_table
from opsd_core.teachers import TeacherWeights

SCHEMA_VERSION = 1
_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("sample_index", pa.int32()),
        ("teacher_prompt_length", pa.int32()),
        ("topk_ids", pa.list_(pa.int32())),
        ("topk_logprobs", pa.list_(pa.float32())),
        ("tail_logprob", pa.list_(pa.float32())),
        ("sampled_logprob", pa.list_(pa.float32())),
        ("entropy", pa.list_(pa.float32())),
    ],
    metadata={"opsd.schema": "targets", "opsd.schema_version": str(SCHEMA_VERSION)},
)
_ROWS_PER_TILE = 1024
"""Positions projected to the vocabulary at a time; bounds memory at 1024 x V floats."""
_LEAST_MASS = 1e-7
"""Below it, what float32 log-probabilities leave for the other tokens is rounding."""


@dataclass(frozen=True)
class Target:
    """The teacher's distribution along one completion of T tokens."""

    example_id: str
    sample_index: int
    teacher_prompt_length: int
    topk_ids_TK: np.ndarray
    topk_logprobs_TK: np.ndarray
    tail_logprob_T: np.ndarray
    sampled_logprob_T: np.ndarray
    entropy_T: np.ndarray

    @property
    def key(self) -> tuple[str, int]:
        return (self.example_id, self.sample_index)


def divergence_along(rollout: Rollout, target: Target) -> np.ndarray:
    """KL(student || teacher) at every position, in nats, from what both recorded: at least 0, at most the exact value.

        sum_{v in both top-Ks} p_v (log p_v - log q_v) + p_r (log p_r - log q_r),   r = every other token together

    p: the untempered policy that sampled, q: the teacher. Joining outcomes can only lower a divergence (Cover & Thomas, theorem
    2.7.1), so a curve of this shows where the teacher disagrees, and never exaggerates.
    """
    shared_TKK = rollout.topk_ids_TK[:, :, None] == target.topk_ids_TK[:, None, :]
    gap_TKK = rollout.topk_logprobs_TK[:, :, None].astype(np.float64) - target.topk_logprobs_TK[:, None, :]
    p_TKK = np.where(shared_TKK, np.exp(rollout.topk_logprobs_TK.astype(np.float64))[:, :, None], 0.0)
    q_TKK = np.where(shared_TKK, np.exp(target.topk_logprobs_TK.astype(np.float64))[:, None, :], 0.0)
    p_rest_T = np.clip(1.0 - p_TKK.sum((1, 2)), _LEAST_MASS, 1.0)
    q_rest_T = np.clip(1.0 - q_TKK.sum((1, 2)), _LEAST_MASS, 1.0)
    terms_TKK = np.where(shared_TKK, p_TKK * gap_TKK, 0.0)
    return np.maximum(0.0, terms_TKK.sum((1, 2)) + p_rest_T * np.log(p_rest_T / q_rest_T))


@torch.inference_mode()
def score_targets(
    teacher: TeacherWeights,
    rollouts: Sequence[Rollout],
    teacher_prompts: Sequence[Sequence[int]],
    top_k: int,
    transform: Transform,
    max_tokens: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Target]:
    """Prefill the teacher with its own prompt and the student's completion; keep top-k and tail per position.

    Mixture and truncation are taken of the full distributions, tile by tile, before the top-k is.
    """
    lengths = [len(prompt) + len(r.completion_ids) for prompt, r in zip(teacher_prompts, rollouts, strict=True)]
    targets: list[Target | None] = [None] * len(rollouts)
    done = 0
    for rows in microbatches(lengths, max_tokens):
        completions = [rollouts[row].completion_ids for row in rows]
        members_NH = members_hidden(teacher, [teacher_prompts[row] for row in rows], completions)
        tokens_N = torch.tensor([token for ids in completions for token in ids], device=members_NH[0].device)
        parts = []
        for i in range(0, len(tokens_N), _ROWS_PER_TILE):
            tile = slice(i, i + _ROWS_PER_TILE)
            logprobs_NV = teacher_logprobs(teacher, [hidden_NH[tile] for hidden_NH in members_NH], transform)
            parts.append(_keep_top_k(logprobs_NV, tokens_N[tile], top_k))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        start = 0
        for row in rows:
            stop = start + len(rollouts[row].completion_ids)
            targets[row] = Target(
                *rollouts[row].key, len(teacher_prompts[row]), *(column[start:stop] for column in columns)
            )
            start = stop
        done += len(rows)
        if on_progress:
            on_progress(done, len(rollouts))
    return targets


@torch.no_grad()
def online_targets(
    teacher: TeacherWeights, members_NH: Sequence[torch.Tensor], transform: Transform, loss_temperature: float
) -> HiddenTargets | FullTargets:
    """The teacher's distribution now: hidden states where these say it all, else whole log-probabilities (N, V).

    `transform.temperature` includes the loss temperature.
    """
    if len(members_NH) == 1 and not transform.truncates:
        return HiddenTargets(members_NH[0], teacher.policy.head, transform.temperature / loss_temperature)
    return FullTargets(teacher_logprobs(teacher, members_NH, transform))


def teacher_logprobs(
    teacher: TeacherWeights, members_NH: Sequence[torch.Tensor], transform: Transform
) -> torch.Tensor:
    """Log-probabilities (N, V) of the teacher: truncate(mix(log_softmax(logits_i / temperature))), float32."""
    members = [
        project(hidden_NH, policy.head, transform.temperature)
        for hidden_NH, policy in zip(members_NH, teacher.policies, strict=True)
    ]
    return truncate(teacher.mix(members), transform.top_p, transform.top_k)


def members_hidden(
    teacher: TeacherWeights, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Each member's hidden states (N, H) at the rows that predict the completions."""
    with teacher.scoring():
        return [completion_hidden(policy, prompts, completions) for policy in teacher.policies]


def _keep_top_k(logprobs_NV: torch.Tensor, tokens_N: torch.Tensor, top_k: int) -> tuple[np.ndarray, ...]:
    probs_NV = logprobs_NV.exp()
    top = logprobs_NV.topk(min(top_k, logprobs_NV.shape[-1]), dim=-1)
    tail_N = probs_NV.scatter(1, top.indices, 0.0).sum(-1).log()
    entropy_N = -torch.special.xlogy(probs_NV, probs_NV).sum(-1)
    sampled_N = logprobs_NV.gather(1, tokens_N[:, None]).squeeze(1)
    columns = (top.indices.to(torch.int32), top.values, tail_N, sampled_N, entropy_N)
    return tuple(column.cpu().numpy() for column in columns)


def stack_targets(targets: Sequence[Target], device: torch.device) -> TopKTargets:
    """Concatenate along positions: (N, K) ids and log-probabilities, (N,) tails."""
    ids_NK = torch.from_numpy(np.concatenate([t.topk_ids_TK for t in targets]).astype(np.int64))
    logprobs_NK = torch.from_numpy(np.concatenate([t.topk_logprobs_TK for t in targets]))
    tail_N = torch.from_numpy(np.concatenate([t.tail_logprob_T for t in targets]))
    sampled_N = torch.from_numpy(np.concatenate([t.sampled_logprob_T for t in targets]))
    return TopKTargets(ids_NK.to(device), logprobs_NK.to(device), tail_N.to(device), sampled_N.to(device))


def write_targets(path: Path, targets: Sequence[Target]) -> None:
    """Write a shard's targets; equal targets give equal bytes."""
    columns = {
        "example_id": [t.example_id for t in targets],
        "sample_index": [t.sample_index for t in targets],
        "teacher_prompt_length": [t.teacher_prompt_length for t in targets],
        "topk_ids": [t.topk_ids_TK.ravel() for t in targets],
        "topk_logprobs": [t.topk_logprobs_TK.ravel() for t in targets],
        "tail_logprob": [t.tail_logprob_T for t in targets],
        "sampled_logprob": [t.sampled_logprob_T for t in targets],
        "entropy": [t.entropy_T for t in targets],
    }
    write_table(path, columns, _SCHEMA)


def read_targets(path: Path) -> list[Target]:
    """Read a shard's targets. IntegrityError when the file is not one of this schema version."""
    table, targets = read_table(path, _SCHEMA), []
    topk_ids, topk_logprobs = ragged(table["topk_ids"], np.int32), ragged(table["topk_logprobs"], np.float32)
    per_token = {name: ragged(table[name], np.float32) for name in ("tail_logprob", "sampled_logprob", "entropy")}
    plain = ("example_id", "sample_index", "teacher_prompt_length")
    for index, row in enumerate(table.select(plain).to_pylist()):
        length, entries = len(per_token["tail_logprob"][index]), len(topk_ids[index])
        if length == 0 or entries % length or entries != len(topk_logprobs[index]):
            raise IntegrityError(
                f"{path.name}: target {row['example_id']} has columns that do not fit its {length} positions."
            )
        targets.append(
            Target(
                **row,
                **{f"{name}_T": values[index] for name, values in per_token.items()},
                topk_ids_TK=topk_ids[index].reshape(length, -1),
                topk_logprobs_TK=topk_logprobs[index].reshape(length, -1),
            )
        )
    return targets
