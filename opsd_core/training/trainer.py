"""The distillation loop: sample a batch, score it with both sides, compare, step.

N = completion tokens of a microbatch
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import TrainingError
from opsd_core.models.forward import completion_hidden, microbatches
from opsd_core.models.policy import Policy, resolve_dtype
from opsd_core.objective import ObjectiveResult, SampledTokens, Stops, Targets, distillation_loss
from opsd_core.selection.monitors import Metrics
from opsd_core.teacher.ends import ends_of, stops_of
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import members_hidden, online_targets, stack_targets
from opsd_core.teacher.teachers import NoTeacher, TeacherWeights
from opsd_core.training.anchors import NO_ANCHORS, Anchors, Held, initial_divergence, own_batch_size
from opsd_core.training.checkpoint import load_checkpoint, save_checkpoint, trainable_parameters
from opsd_core.training.importance import correction_metrics, importance_ratio, old_temperature, sampled_logprobs
from opsd_core.training.items import TrainingItem
from opsd_core.training.monitors import stop_metrics, token_metrics
from opsd_core.training.noise import embedding_noise
from opsd_core.training.opsa import with_advantages
from opsd_core.training.optim import build_optimizer, learning_rate, set_learning_rate

_ROUNDING_GRADIENT = 1e-5
"""Gradient norm that float32 rounding leaves where the exact gradient is 0. AdamW divides by the gradient's own size, so
a step on it would move every weight by a full learning rate in a random direction; such a step is not applied."""


@dataclass(frozen=True)
class Schedule:
    """Where an iteration stands in its campaign: steps before it, and steps of all iterations."""

    first_step: int
    total_steps: int


def batch_order(num_items: int, batch_size: int, num_steps: int, seed: int) -> list[list[int]]:
    """Item indices of each step: passes over seeded permutations, without a gap between them."""
    needed, order, epoch = batch_size * num_steps, [], 0
    while len(order) < needed:
        generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
        order.extend(torch.randperm(num_items, generator=generator).tolist())
        epoch += 1
    return [order[step * batch_size : (step + 1) * batch_size] for step in range(num_steps)]


def distil(
    student: Policy,
    teacher: TeacherWeights,
    items: Sequence[TrainingItem],
    config: CampaignConfig,
    schedule: Schedule,
    seed: int,
    *,
    anchors: Anchors = NO_ANCHORS,
    start_from: Path | None = None,
    resume_from: Path | None = None,
    before_first_step: Callable[[], None] | None = None,
    on_step: Callable[[int, Metrics], None] | None = None,
    on_checkpoint: Callable[[int, Callable[[Path], None]], None] | None = None,
) -> Callable[[Path], None]:
    """Run the iteration's optimiser steps on `student`, in place; return a function that saves the final state.

    `anchors` add extra terms to the loss. `start_from` is the final state of an earlier iteration (its optimiser
    continues), `resume_from` a state of this one (its steps are not repeated and `before_first_step()` is not called).
    `on_step(step, metrics)` gets the campaign-wide step; `on_checkpoint(step, save)` is called every
    execution.checkpoint_every steps. TrainingError when loss or gradient is not finite, no token counts, or the trainable
    weights are coarser than float32.
    """
    if not items:
        raise TrainingError(
            "no rollout is left to train on: every one was filtered out. See the filter's reasons and config.filter."
        )
    student.model.eval()  # no dropout: the student's noise is never left to chance
    optimizer = build_optimizer(_learning(student, config), config.optimizer)
    torch.manual_seed(seed)  # nothing draws from it today; a stored state must not depend on what the process did before
    first = 0
    if resume_from is not None:
        first = load_checkpoint(resume_from, student, optimizer, teacher)
    elif start_from is not None:
        load_checkpoint(start_from, student, optimizer, teacher)
    if first == 0 and before_first_step:
        before_first_step()
    batches = batch_order(len(items), own_batch_size(config), config.optimizer.num_steps, seed)
    for step in range(first, config.optimizer.num_steps):
        campaign_step = schedule.first_step + step
        rate = learning_rate(config.optimizer, campaign_step, schedule.total_steps)
        set_learning_rate(optimizer, rate)
        batch = [items[i] for i in batches[step]]
        metrics = train_step(student, teacher, batch, optimizer, config, campaign_step, anchors.of_step(step))
        if on_step:
            on_step(campaign_step, metrics | {"optim/learning_rate": rate})
        done = step + 1
        if on_checkpoint and done % config.execution.checkpoint_every == 0 and done < config.optimizer.num_steps:
            on_checkpoint(done, lambda folder, done=done: save_checkpoint(folder, student, optimizer, teacher, done))
    return lambda folder: save_checkpoint(folder, student, optimizer, teacher, config.optimizer.num_steps)


def _learning(student: Policy, config: CampaignConfig) -> list[torch.nn.Parameter]:
    """The student's trainable parameters. TrainingError when there are none, or they are coarser than float32."""
    parameters = list(trainable_parameters(student).values())
    if not parameters:
        raise TrainingError(
            "the student has no trainable parameter, so neither it nor an averaged teacher would ever change. Check "
            f"model.lora.rank={config.model.lora.rank} and model.lora.target_modules."
        )
    if coarse := sorted({str(p.dtype).removeprefix("torch.") for p in parameters} - {"float32", "float64"}):
        raise TrainingError(
            f"the student's trainable weights are {', '.join(coarse)}, in which a step of optimizer.learning_rate="
            f"{config.optimizer.learning_rate} is mostly rounded away: it would learn less, and nothing would say so. Load it "
            "with load_policy(folder, config.model, torch.float32); forward passes keep model.dtype all the same."
        )
    return parameters


def train_step(
    student: Policy,
    teacher: TeacherWeights,
    batch: Sequence[TrainingItem],
    optimizer: torch.optim.Optimizer,
    config: CampaignConfig,
    step: int,
    anchors: Anchors = NO_ANCHORS,
) -> Metrics:
    """One optimiser step:  loss = sum_n w_n (r_n bound(D_n) + beta KL(S_n || S_0n)) / sum_n w_n + sum_h c_h mean_m D_hm.

    r_n is the importance ratio, 1 without token_weights.importance_correction; beta = initial_kl; h over the anchors:
    references (D = -log S(y)) and rehearsed completions (D = KL(S_0 || S)), m over their tokens. The denominator is the
    batch's, not a microbatch's, so any split into microbatches gives the same gradient.
    """
    started = time.perf_counter()
    if config.distillation.kind.advantages:
        batch = with_advantages(batch, config.distillation.opsa_fraction)
    total_weight = float(sum(item.weights_T.sum() for item in batch))
    if total_weight == 0.0:
        raise TrainingError(
            f"step {step}: no token of the batch counts. Completions are not longer than "
            f"distillation.skip_first_tokens={config.distillation.skip_first_tokens}, or every token is masked."
        )
    optimizer.zero_grad(set_to_none=True)
    scored: list[Scored] = []
    for rows in microbatches([item.num_tokens for item in batch], config.execution.microbatch_tokens):
        part = _score(student, teacher, [batch[row] for row in rows], config, step, anchors)
        (part.loss_sum / total_weight).backward()
        scored.append(part)
    beside = {held.metric: _train_on_held(student, held, step) for held in anchors.held}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_grad_norm))
    loss = float(sum(part.result.loss_sum.detach().double() for part in scored)) / total_weight
    if anchors.initial is not None:
        pulled = float(sum((part.loss_sum - part.result.loss_sum).detach().double() for part in scored)) / total_weight
        beside["anchor/initial_kl"] = pulled / config.distillation.initial_kl
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise TrainingError(
            f"step {step}: loss={loss}, gradient norm={grad_norm}. The step was not applied. Lower "
            f"optimizer.learning_rate={config.optimizer.learning_rate}, or use float32 (model.dtype={config.model.dtype})."
        )
    applied = grad_norm > _ROUNDING_GRADIENT
    if applied:
        optimizer.step()
        teacher.update(student)
    return _step_metrics(scored, config) | beside | {
        "distillation/loss": loss,
        "optim/grad_norm": grad_norm,
        "optim/applied": float(applied),
        "tokens/weight": total_weight,
        "time/step_seconds": time.perf_counter() - started,
    }


def objective(
    student: Policy, teacher: TeacherWeights, batch: Sequence[TrainingItem], config: CampaignConfig, step: int = 0
) -> ObjectiveResult:
    """Divergence of one microbatch, with gradients to the student; `step` decides the student's noise, if any."""
    return _score(student, teacher, batch, config, step).result


def _train_on_held(student: Policy, held: Held, step: int) -> float:
    """Backward of  c sum_m w_m D_m / sum_m w_m  over the tokens of `held`; its mean without c."""
    total_weight, total = float(sum(item.weights_T.sum() for item in held.items)), 0.0
    for rows in microbatches([item.num_tokens for item in held.items], held.config.execution.microbatch_tokens):
        result = objective(student, NoTeacher(), [held.items[row] for row in rows], held.config, step)
        (held.coefficient * result.loss_sum / total_weight).backward()
        total += float(result.loss_sum.detach().double())
    return total / total_weight


class Scored(NamedTuple):
    """A microbatch after its forward pass, and what the policy now says of the sampled tokens."""

    batch: Sequence[TrainingItem]
    result: ObjectiveResult
    logprobs_N: Tensor | None
    """At the temperature of `rollout_logprobs_T`; None where that is not the loss temperature and nothing needs it."""
    loss_sum: Tensor
    """`result.loss_sum` and the pull of the initial policy."""
    stopped_N: Tensor
    """bool: the token ended the completion."""


def _score(
    student: Policy,
    teacher: TeacherWeights,
    batch: Sequence[TrainingItem],
    config: CampaignConfig,
    step: int,
    anchors: Anchors = NO_ANCHORS,
) -> Scored:
    completions = [item.completion_ids for item in batch]
    noise = None
    if alpha := config.teacher.student_noise:
        size = student.causal_lm.get_input_embeddings().embedding_dim
        noise = embedding_noise(alpha, size, config.seed, step, [item.key for item in batch])
    with _autocast(student.device, config):
        hidden_NH = completion_hidden(student, [item.prompt_ids for item in batch], completions, noise)
    tokens_N = torch.tensor([token for ids in completions for token in ids], device=student.device)
    weights_N = _column(batch, "weights_T").to(student.device)
    loss_sum: Tensor | float = 0.0
    if anchors.initial is not None:
        with _autocast(student.device, config):
            loss_sum = initial_divergence(student, anchors.initial, hidden_NH, batch, tokens_N, weights_N, config)
    temperature, logprobs_N = old_temperature(config.rollout), None
    if config.token_weights.importance_correction:
        logprobs_N = sampled_logprobs(hidden_NH.detach(), student.head, tokens_N, temperature)
        old_logprobs_N = _column(batch, "rollout_logprobs_T").to(student.device)
        weights_N = weights_N * importance_ratio(logprobs_N, old_logprobs_N, config.token_weights.importance_clip)
    stops = stops_of(student, teacher, config.distillation)
    targets = _targets(teacher, batch, config, student.device, stops)
    result = distillation_loss(hidden_NH, student.head, targets, tokens_N, weights_N, config.distillation)
    if logprobs_N is None and temperature == config.distillation.temperature:
        logprobs_N = result.logprobs_N
    stopped_N = torch.isin(tokens_N, torch.tensor(ends_of(student), device=student.device))
    return Scored(batch, result, logprobs_N, result.loss_sum + loss_sum, stopped_N)


def _column(batch: Sequence[TrainingItem], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([getattr(item, name) for item in batch]).astype(np.float32))


def _targets(
    teacher: TeacherWeights,
    batch: Sequence[TrainingItem],
    config: CampaignConfig,
    device: torch.device,
    stops: Stops | None,
) -> Targets:
    if config.distillation.teacher_free:
        advantages = batch[0].advantages_T is not None
        return SampledTokens(_column(batch, "advantages_T").to(device) if advantages else None)
    if config.distillation.records_targets:
        return stack_targets([item.target for item in batch], device, stops)
    prompts, completions = [item.teacher_prompt_ids for item in batch], [item.completion_ids for item in batch]
    with torch.no_grad(), _autocast(teacher.policy.device, config):
        members_NH = members_hidden(teacher, prompts, completions)
    loss_temperature = config.distillation.temperature
    return online_targets(teacher, members_NH, Transform.of(config.teacher, loss_temperature), loss_temperature, stops)


def _autocast(device: torch.device, config: CampaignConfig):
    dtype = resolve_dtype(config.model)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def _step_metrics(scored: Sequence[Scored], config: CampaignConfig) -> Metrics:
    """Over the tokens of the step that count; names as in TRL, verl and the OPSD literature."""
    items = [item for part in scored for item in part.batch]
    counted_N = _column(items, "weights_T") > 0
    metrics = token_metrics([part.result for part in scored], counted_N)
    metrics["tokens/trained"] = float(counted_N.sum())
    stopped_N = torch.cat([part.stopped_N for part in scored]).cpu() & counted_N
    metrics |= stop_metrics([part.result for part in scored], stopped_N)
    if all(part.logprobs_N is not None for part in scored):
        logprobs_N = torch.cat([part.logprobs_N for part in scored]).float().cpu()[counted_N]
        old_logprobs_N = _column(items, "rollout_logprobs_T")[counted_N]
        metrics |= correction_metrics(logprobs_N, old_logprobs_N, config.token_weights.importance_clip)
    return metrics
