"""Soft targets: the teacher's distribution at every completion position.

N = completion tokens, K = entries kept

Recorded targets hold the K most likely tokens, normalised over the full vocabulary, and the tail's log-mass. They are
computed once by a teacher that does not change during the iteration and are stored next to the rollouts. Where end tokens are
merged (`opsd_core.objective.stops`), each model's are before any mixture or truncation, and the events are always kept.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from opsd_core.config import CampaignConfig
from opsd_core.errors import DataError
from opsd_core.models.forward import completion_hidden, microbatches
from opsd_core.objective.merging import merged
from opsd_core.objective.plain import project
from opsd_core.objective.stops import Stops
from opsd_core.objective.supports import largest
from opsd_core.objective.types import FullTargets, HiddenTargets, TopKTargets
from opsd_core.records.rollouts import Rollout
from opsd_core.records.spool import Lazy, room_like
from opsd_core.records.targets import TARGETS, Target
from opsd_core.records.views import longest, view
from opsd_core.teacher.ends import stops_of
from opsd_core.teacher.mixtures import Transform, truncate
from opsd_core.teacher.teachers import TeacherWeights

_ROWS_PER_TILE = 1024
"""Positions projected to the vocabulary at a time; bounds memory at 1024 x V floats."""
_LEAST_MASS = 1e-7
"""Below it, what float32 log-probabilities leave for the other tokens is rounding."""


def divergence_along(rollout: Rollout, target: Target) -> np.ndarray:
    """KL(student || teacher) at every position, in nats, from what both recorded: at least 0, at most the exact value.

        sum_{v in both top-Ks} p_v (log p_v - log q_v) + p_r (log p_r - log q_r),   r = every other token together

    p: the untempered policy that sampled, q: the teacher. Joining outcomes can only lower a divergence (Cover & Thomas, theorem
    2.7.1), so a curve of this shows where the teacher disagrees, and never exaggerates.
    """
    shared_TKK = rollout.topk_ids_TK[:, :, None] == target.topk_ids_TK[:, None, :]
    shared_TKK &= ~np.isin(target.topk_ids_TK, target.stop_layout)[:, None, :]  # only the teacher's side has them merged
    gap_TKK = rollout.topk_logprobs_TK[:, :, None].astype(np.float64) - target.topk_logprobs_TK[:, None, :]
    p_TKK = np.where(shared_TKK, np.exp(rollout.topk_logprobs_TK.astype(np.float64))[:, :, None], 0.0)
    q_TKK = np.where(shared_TKK, np.exp(target.topk_logprobs_TK.astype(np.float64))[:, None, :], 0.0)
    p_rest_T = np.clip(1.0 - p_TKK.sum((1, 2)), _LEAST_MASS, 1.0)
    q_rest_T = np.clip(1.0 - q_TKK.sum((1, 2)), _LEAST_MASS, 1.0)
    terms_TKK = np.where(shared_TKK, p_TKK * gap_TKK, 0.0)
    return np.maximum(0.0, terms_TKK.sum((1, 2)) + p_rest_T * np.log(p_rest_T / q_rest_T))


def score_rollouts(
    teacher: TeacherWeights,
    rollouts: Sequence[Rollout],
    prompts: Mapping[tuple[str, int], Sequence[int]],
    config: CampaignConfig,
    on_progress: Callable[[int, int], None] | None = None,
    stops: Stops | None = None,
) -> Sequence[Target]:
    """Recorded targets of the rollouts that have a teacher's prompt in `prompts`, as `config` keeps and transforms them.

    Of rollouts on disk that all have one (`spooled_rollouts`), the targets are on disk too.
    `stops`: the end tokens of policy and teacher; None = the teacher's models' own, which are the policy's where it teaches
    itself. With distillation.merge_stop=off they play no part.
    """
    taught = rollouts if all(r.key in prompts for r in rollouts) else [r for r in rollouts if r.key in prompts]
    seen, objective = Lazy(len(taught), lambda number: prompts[taught[number].key]), config.distillation
    transform = Transform.of(config.teacher, objective.temperature)
    tokens = config.execution.microbatch_tokens
    stops = stops_of(teacher.policy, teacher, objective) if stops is None or objective.merge_stop == "off" else stops
    return score_targets(teacher, taught, seen, objective.top_k, transform, tokens, on_progress, stops)


@torch.inference_mode()
def score_targets(
    teacher: TeacherWeights,
    rollouts: Sequence[Rollout],
    teacher_prompts: Sequence[Sequence[int]],
    top_k: int,
    transform: Transform,
    max_tokens: int,
    on_progress: Callable[[int, int], None] | None = None,
    stops: Stops | None = None,
) -> Sequence[Target]:
    """Prefill the teacher with its own prompt and the student's completion; keep top-k and tail per position.

    With `stops` their events are kept besides the top-k. Mixture and truncation are taken of the full distributions, tile by
    tile, before the top-k is.
    """
    sizes = (longest(prompt) + len(r.completion_ids) for prompt, r in zip(teacher_prompts, rollouts, strict=True))
    lengths, targets = np.fromiter(sizes, np.int64, len(rollouts)), room_like(rollouts, TARGETS)
    done = 0
    for rows in microbatches(lengths, max_tokens):
        chosen, asked = [rollouts[row] for row in rows], [teacher_prompts[row] for row in rows]
        completions = [rollout.completion_ids for rollout in chosen]
        members_NH = members_hidden(teacher, asked, completions)
        tokens_N = torch.tensor([token for ids in completions for token in ids], device=members_NH[0].device)
        parts = []
        for i in range(0, len(tokens_N), _ROWS_PER_TILE):
            tile = slice(i, i + _ROWS_PER_TILE)
            logprobs_NV = teacher_logprobs(teacher, [hidden_NH[tile] for hidden_NH in members_NH], transform, stops)
            parts.append(_keep_top_k(logprobs_NV, tokens_N[tile], top_k, stops))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        start = 0
        for row, rollout, prompt in zip(rows, chosen, asked, strict=True):
            stop = start + len(rollout.completion_ids)
            targets[row] = Target(
                *rollout.key,
                longest(prompt),
                *(column[start:stop] for column in columns),
                stop_layout=stops.layout if stops else (),
            )
            start = stop
        done += len(rows)
        if on_progress:
            on_progress(done, len(rollouts))
    return targets


@torch.no_grad()
def online_targets(
    teacher: TeacherWeights,
    members_NH: Sequence[torch.Tensor],
    transform: Transform,
    loss_temperature: float,
    stops: Stops | None = None,
) -> HiddenTargets | FullTargets:
    """The teacher's distribution now: hidden states where these say it all, else whole log-probabilities (N, V).

    `transform.temperature` includes the loss temperature.
    """
    if not (teacher.mixes or transform.truncates):
        with teacher.scoring(0):  # an adapter on the head is off there too
            head = teacher.policy.head
        return HiddenTargets(members_NH[0], head, transform.temperature / loss_temperature, stops)
    return FullTargets(teacher_logprobs(teacher, members_NH, transform, stops), stops)


def teacher_logprobs(
    teacher: TeacherWeights,
    members_NH: Sequence[torch.Tensor],
    transform: Transform,
    stops: Stops | None = None,
) -> torch.Tensor:
    """Log-probabilities (N, V) of the teacher: truncate(mix(log_softmax(logits_i / temperature))), float32.

    With `stops` each model's end tokens are merged first: models that all stop, each in its own way, agree.
    """
    members = []
    for number, (hidden_NH, policy) in enumerate(zip(members_NH, teacher.policies, strict=True)):
        with teacher.scoring(number):  # an adapter on the head is off there too
            members.append(project(hidden_NH, policy.head, transform.temperature))
    if stops:
        members = [merged(logprobs_NV, own, stops) for logprobs_NV, own in zip(members, stops.members, strict=True)]
    return truncate(teacher.mix(members), transform.top_p, transform.top_k)


def answer_logprobs(
    scorer: TeacherWeights, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Log-probabilities (N, V) at every token of each answer after its prompt; neither temperature nor truncation."""
    return teacher_logprobs(scorer, members_hidden(scorer, prompts, answers), Transform())


def members_hidden(
    teacher: TeacherWeights, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Each member's hidden states (N, H) at the rows that predict the completions, each after the prompt that it reads."""
    found = []
    for number, policy in enumerate(teacher.policies):
        asked = [view(prompt, teacher.views[number]) for prompt in prompts]
        with teacher.scoring(number):
            found.append(completion_hidden(policy, asked, completions))
    return found


def _keep_top_k(
    logprobs_NV: torch.Tensor, tokens_N: torch.Tensor, top_k: int, stops: Stops | None
) -> tuple[np.ndarray, ...]:
    probs_NV = logprobs_NV.exp()
    ids_NK = largest(logprobs_NV, top_k, stops.events if stops else ())
    tail_N = probs_NV.scatter(1, ids_NK, 0.0).sum(-1).log()
    entropy_N = -torch.special.xlogy(probs_NV, probs_NV).sum(-1)
    sampled_N = logprobs_NV.gather(1, (stops.event_ids(tokens_N) if stops else tokens_N)[:, None]).squeeze(1)
    columns = (ids_NK.to(torch.int32), logprobs_NV.gather(1, ids_NK), tail_N, sampled_N, entropy_N)
    return tuple(column.cpu().numpy() for column in columns)


def stack_targets(targets: Sequence[Target], device: torch.device, stops: Stops | None = None) -> TopKTargets:
    """Concatenate along positions: (N, K) ids and log-probabilities, (N,) tails.

    DataError unless exactly the end tokens of `stops` are merged in each of them.
    """
    wanted = stops.layout if stops else ()
    for found in sorted({target.stop_layout for target in targets} - {wanted}):
        has = f"the end tokens {sorted(set(found) - {-1})} merged" if found else "no end tokens merged"
        needs = f"{list(stops.union)} as one stop event" if stops else "every token by itself"
        raise DataError(
            f"Recorded targets have {has}, and the objective compares {needs} (distillation.merge_stop). They were made "
            "with other settings or by an earlier version: record them again with the same setting, or set "
            f"distillation.merge_stop={'off' if stops else 'auto'}."
        )
    ids_NK = torch.from_numpy(np.concatenate([t.topk_ids_TK for t in targets]).astype(np.int64))
    logprobs_NK = torch.from_numpy(np.concatenate([t.topk_logprobs_TK for t in targets]))
    tail_N = torch.from_numpy(np.concatenate([t.tail_logprob_T for t in targets]))
    sampled_N = torch.from_numpy(np.concatenate([t.sampled_logprob_T for t in targets]))
    return TopKTargets(ids_NK.to(device), logprobs_NK.to(device), tail_N.to(device), sampled_N.to(device), stops)
