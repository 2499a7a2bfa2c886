"""One microbatch of training: both sides' forward passes and the divergence between them, with gradients to the student.

N = completion tokens of a microbatch
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from opsd_core.config import CampaignConfig
from opsd_core.models.forward import completion_hidden
from opsd_core.models.policy import Policy, resolve_dtype
from opsd_core.objective import ObjectiveResult, SampledTokens, Stops, Targets, distillation_loss
from opsd_core.selection.monitors import Metrics
from opsd_core.teacher.ends import ends_of, stops_of
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import members_hidden, online_targets, stack_targets
from opsd_core.teacher.teachers import TeacherWeights
from opsd_core.training.anchors import NO_ANCHORS, Anchors, initial_divergence
from opsd_core.training.bites import bitten
from opsd_core.training.importance import correction_metrics, importance_ratio, old_temperature, sampled_logprobs
from opsd_core.training.items import TrainingItem
from opsd_core.training.monitors import stop_metrics, token_metrics
from opsd_core.training.noise import embedding_noise


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


def score(
    student: Policy,
    teacher: TeacherWeights,
    batch: Sequence[TrainingItem],
    config: CampaignConfig,
    step: int,
    anchors: Anchors = NO_ANCHORS,
) -> Scored:
    """Both sides of one microbatch, and its loss before the division by the batch's weight; gradients reach the student."""
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
        with _autocast(student.device, config):
            logprobs_N = sampled_logprobs(hidden_NH.detach(), student.head, tokens_N, temperature)
        old_logprobs_N = _column(batch, "rollout_logprobs_T").to(student.device)
        weights_N = weights_N * importance_ratio(logprobs_N, old_logprobs_N, config.token_weights.importance_clip)
    stops = stops_of(student, teacher, config.distillation)
    targets = _targets(teacher, batch, config, student.device, stops)
    with _autocast(student.device, config):
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


def objective(
    student: Policy, teacher: TeacherWeights, batch: Sequence[TrainingItem], config: CampaignConfig, step: int = 0
) -> ObjectiveResult:
    """Divergence of one microbatch, with gradients to the student; `step` decides the student's noise, if any."""
    return score(student, teacher, batch, config, step).result


def step_metrics(scored: Sequence[Scored], config: CampaignConfig) -> Metrics:
    """Over the tokens of the step that count; names as in TRL, verl and the OPSD literature."""
    items = [item for part in scored for item in part.batch]
    counted_N = _column(items, "weights_T") > 0
    metrics = token_metrics([part.result for part in scored], counted_N, config.distillation)
    metrics["tokens/trained"] = float(counted_N.sum())
    stopped_N, logprobs_N = torch.cat([part.stopped_N for part in scored]).cpu(), None
    metrics |= stop_metrics([part.result for part in scored], stopped_N & counted_N)
    if all(part.logprobs_N is not None for part in scored):
        logprobs_N = torch.cat([part.logprobs_N for part in scored]).float().cpu()
    metrics |= bitten(items, [part.result for part in scored], stopped_N, logprobs_N, config)
    if logprobs_N is not None:
        logprobs_N = logprobs_N[counted_N]
        old_logprobs_N = _column(items, "rollout_logprobs_T")[counted_N]
        metrics |= correction_metrics(logprobs_N, old_logprobs_N, config.token_weights.importance_clip)
    return metrics
