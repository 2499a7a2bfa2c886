"""The distillation loop: sample a batch, score it with both sides, compare, step.

N = completion tokens of a microbatch
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import TrainingError
from opsd_core.models.policy import Policy
from opsd_core.models.whole import whole
from opsd_core.selection.monitors import Metrics
from opsd_core.teacher.teachers import NoTeacher, TeacherWeights
from opsd_core.training.anchors import NO_ANCHORS, Anchors, Held, own_batch_size
from opsd_core.training.checkpoint import load_checkpoint, save_checkpoint, trainable_parameters
from opsd_core.training.items import TrainingItem
from opsd_core.training.opsa import with_advantages
from opsd_core.training.optim import build_optimizer, learning_rate, set_learning_rate
from opsd_core.training.ranks import Ranks, Round, out_of_memory
from opsd_core.training.scored import Scored, objective, score, step_metrics

__all__ = ["Metrics", "Schedule", "TrainingItem", "batch_order", "distil", "objective", "train_step"]

NOTHING_LEFT = "no rollout is left to train on: every one was filtered out. See the filter's reasons and config.filter."
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
    ranks: Ranks | None = None,
) -> Callable[[Path], None]:
    """Run the iteration's optimiser steps on `student`, in place; return a function that saves the final state.

    `anchors` add extra terms to the loss. `start_from` is the final state of an earlier iteration (its optimiser
    continues), `resume_from` a state of this one (its steps are not repeated and `before_first_step()` is not called).
    `on_step(step, metrics)` gets the campaign-wide step; `on_checkpoint(step, save)` is called every
    execution.checkpoint_every steps. `ranks`: the processes that train together, each of which calls this with the same
    arguments; None = this one alone. What is saved does not tell how many there were. TrainingError when loss or gradient is
    not finite, no token counts, memory does not suffice, or the trainable weights are coarser than float32.
    """
    if not items:
        raise TrainingError(NOTHING_LEFT)
    ranks = ranks or Ranks()
    student.model.eval()  # no dropout: the student's noise is never left to chance
    ranks.prepare(student, teacher, *([anchors.initial] if anchors.initial else []))
    optimizer = build_optimizer(_learning(student, config), config.optimizer)
    torch.manual_seed(seed)  # nothing draws from it today; a stored state must not depend on what the process did before
    first = 0
    if resume_from is not None:
        first = load_checkpoint(resume_from, student, optimizer, teacher)
    elif start_from is not None:
        load_checkpoint(start_from, student, optimizer, teacher)
    if first == 0 and before_first_step:
        before_first_step()
    save = partial(save_checkpoint, student=student, optimizer=optimizer, teacher=teacher, writes=ranks.rank == 0)
    batches = batch_order(len(items), own_batch_size(config), config.optimizer.num_steps, seed)
    for step in range(first, config.optimizer.num_steps):
        campaign_step = schedule.first_step + step
        rate = learning_rate(config.optimizer, campaign_step, schedule.total_steps)
        set_learning_rate(optimizer, rate)
        batch = [items[i] for i in batches[step]]
        metrics = train_step(student, teacher, batch, optimizer, config, campaign_step, anchors.of_step(step), ranks)
        if on_step:
            on_step(campaign_step, metrics | {"optim/learning_rate": rate})
        done = step + 1
        if on_checkpoint and done % config.execution.checkpoint_every == 0 and done < config.optimizer.num_steps:
            on_checkpoint(done, lambda folder, done=done: save(folder, step=done))
    return lambda folder: save(folder, step=config.optimizer.num_steps)


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
    ranks: Ranks | None = None,
) -> Metrics:
    """One optimiser step:  loss = sum_n w_n (r_n bound(D_n) + beta KL(S_n || S_0n)) / sum_n w_n + sum_h c_h mean_m D_hm.

    r_n is the importance ratio, 1 without token_weights.importance_correction; beta = initial_kl; h over the anchors:
    references (D = -log S(y)) and rehearsed completions (D = KL(S_0 || S)), m over their tokens. The denominator is the
    batch's, not a microbatch's, so any split into microbatches and over `ranks` gives the same gradient. A microbatch that
    does not fit the memory is cut in halves.
    """
    started, ranks = time.perf_counter(), ranks or Ranks()
    if config.distillation.kind.advantages:
        batch = with_advantages(batch, config.distillation.opsa_fraction)
    total_weight = float(sum(item.weights_T.sum() for item in batch))
    if total_weight == 0.0:
        raise TrainingError(
            f"step {step}: no token of the batch counts. Completions are not longer than "
            f"distillation.skip_first_tokens={config.distillation.skip_first_tokens}, or every token is masked."
        )
    compute = partial(_gradients, student, teacher, batch, config, step, anchors, ranks, total_weight)
    lengths = [item.num_tokens for item in (*batch, *(item for held in anchors.held for item in held.items))]
    scored, apart = _that_fits(compute, optimizer, ranks, lengths, config)
    beside = {held.metric: ranks.sum(total) / held.total_weight for held, total in zip(anchors.held, apart, strict=True)}
    scored = ranks.gather(scored, [item.num_tokens for item in batch], batch)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    ranks.sync(parameters)
    grad_norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_grad_norm)))
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
    if ranks.most_tokens is not None:
        beside["execution/microbatch_tokens"] = float(ranks.limit(config.execution.microbatch_tokens))
    return step_metrics(scored, config) | beside | {
        "distillation/loss": loss,
        "optim/grad_norm": grad_norm,
        "optim/applied": float(applied),
        "tokens/weight": total_weight,
        "time/step_seconds": time.perf_counter() - started,
    }


def _that_fits(
    compute: Callable[[], tuple[list[Scored], list[float]]],
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
    lengths: Sequence[int],
    config: CampaignConfig,
) -> tuple[list[Scored], list[float]]:
    """The gradients of a step, in smaller microbatches where memory does not suffice: no weight has moved until then."""
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            return compute()
        except Exception as error:
            if not out_of_memory(error):
                raise
        ranks.lower(lengths, config.execution.microbatch_tokens)  # out here the pass that failed is gone from memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _gradients(
    student: Policy,
    teacher: TeacherWeights,
    batch: Sequence[TrainingItem],
    config: CampaignConfig,
    step: int,
    anchors: Anchors,
    ranks: Ranks,
    total_weight: float,
) -> tuple[list[Scored], list[float]]:
    """Forward and backward of this process' part of a step; what it scored, and its sums over the anchors' tokens.

    Nothing is added up over processes here: one that does this again, for want of memory, would do so alone.
    """
    scored: list[Scored] = []
    for part in ranks.mine([item.num_tokens for item in batch], config.execution.microbatch_tokens):
        rows = _rows(batch, part)
        found = ranks.call(partial(score, student, teacher, rows, config, step, anchors))
        (found.loss_sum / total_weight).backward()
        if part.counts:
            scored.append(found)
    return scored, [_train_on_held(student, held, step, ranks) for held in anchors.held]


def _rows(batch: Sequence[TrainingItem], part: Round) -> list[TrainingItem]:
    """The items of a round; those that only keep a process in step weigh nothing."""
    rows = [batch[row] for row in part.rows]
    return rows if part.counts else [replace(item, weights_T=np.zeros_like(item.weights_T)) for item in rows]


def _train_on_held(student: Policy, held: Held, step: int, ranks: Ranks) -> float:
    """Backward of  c sum_m w_m D_m / sum_m w_m  over the tokens of `held`; this process' part of  sum_m w_m D_m."""
    total_weight, total = held.total_weight, 0.0
    for part in ranks.mine([item.num_tokens for item in held.items], held.config.execution.microbatch_tokens):
        found = ranks.call(partial(score, student, NoTeacher(), _rows(held.items, part), held.config, step))
        (held.coefficient * found.loss_sum / total_weight).backward()
        total += float(found.result.loss_sum.detach().double())
    return total
