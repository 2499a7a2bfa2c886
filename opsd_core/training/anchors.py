"""Extra loss terms that keep the student close to the policy it started from, to references, and to what it said elsewhere.

    initial   beta KL(S_n || S_0n) on every counted token of the student's own completions and prompts, full vocabulary
    gold      c * mean(-log S(y_g)) over the tokens of references, gold_share of every optimiser step's completions
    rehearsal c * mean KL(S_0n || S_n) over the tokens of the initial policy's completions of other prompts, with its recorded
              top-k and tail; rehearsal.share of every optimiser step's completions

Source: references and a KL to the start against drift and length inflation, arXiv:2604.08527. Holding a model to its own
answers: Learning without Forgetting, arXiv:1606.09282.

N = completion tokens of a microbatch, H = hidden size
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opsd_core.config import CampaignConfig, DistillationConfig
from opsd_core.models.forward import completion_hidden
from opsd_core.models.policy import Policy
from opsd_core.objective import HiddenTargets, distillation_loss
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.references import end_token, reference_ids
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import Rollout
from opsd_core.records.targets import Target
from opsd_core.teacher.teachers import TeacherWeights
from opsd_core.training.items import TrainingItem

_REVERSE_KL = DistillationConfig(divergence="reverse_kl", targets="online", bound="none")


@dataclass(frozen=True)
class Held:
    """Completions that an optimiser step trains on besides those of its objective: coefficient * mean over their tokens."""

    metric: str
    """Name under which the mean is logged, nats per token."""
    coefficient: float
    config: CampaignConfig
    """The configuration under which they are compared with what they hold the student to."""
    items: tuple[TrainingItem, ...]

    @property
    def total_weight(self) -> float:
        """What the mean divides by, of all items."""
        return float(sum(item.weights_T.sum() for item in self.items))


@dataclass(frozen=True)
class Anchors:
    """The initial policy, with initial_kl above 0, and each optimiser step's references and rehearsed completions."""

    initial: TeacherWeights | None = None
    by_step: tuple[tuple[Held, ...], ...] = ()
    held: tuple[Held, ...] = ()
    """Those of the step that `of_step` chose."""

    def of_step(self, step: int) -> "Anchors":
        """The extra terms in this step of the iteration."""
        return Anchors(self.initial, (), self.by_step[step] if self.by_step else ())


NO_ANCHORS = Anchors()


def gold_batch_size(config: CampaignConfig) -> int:
    """References per optimiser step: gold_share of its completions, at least one."""
    share = config.distillation.gold_share
    return max(1, round(share * config.optimizer.batch_size)) if share else 0


def rehearsed_batch_size(config: CampaignConfig) -> int:
    """Rehearsed completions per optimiser step: rehearsal.share of its completions, at least one."""
    share = config.rehearsal.share
    return max(1, round(share * config.optimizer.batch_size)) if share else 0


def own_batch_size(config: CampaignConfig) -> int:
    """Completions of the iteration per optimiser step, at least one: what the others leave of optimizer.batch_size."""
    return max(1, config.optimizer.batch_size - gold_batch_size(config) - rehearsed_batch_size(config))


def held_gold(items: Sequence[TrainingItem], config: CampaignConfig) -> Held:
    """References of one step, trained with cross-entropy at temperature 1."""
    compared = _compared(config, divergence="cross_entropy")
    return Held("anchor/gold_nll", config.distillation.gold_coefficient, compared, tuple(items))


def held_rehearsal(items: Sequence[TrainingItem], config: CampaignConfig) -> Held:
    """Rehearsed completions of one step, held to their recorded distribution at temperature 1, without a bound."""
    compared = _compared(config, divergence="forward_kl", targets="recorded", bound="none")
    return Held("anchor/rehearsal_kl", config.rehearsal.coefficient, compared, tuple(items))


def _compared(config: CampaignConfig, **changes: object) -> CampaignConfig:
    plain = {"temperature": 1.0, "scale_by_temperature_squared": False, "initial_kl": 0.0}
    return config.model_copy(update={"distillation": config.distillation.model_copy(update=plain | changes)})


def gold_item(example: Example, builder: PromptBuilder, policy: Policy, config: CampaignConfig) -> TrainingItem:
    """A reference as a training item: every token counts 1, nothing was sampled."""
    prompt, ids = builder.student_ids(example), reference_ids(example, config, policy.tokenizer, end_token(policy))
    absent_T = np.full(len(ids), np.nan, np.float32)
    return TrainingItem(prompt, prompt, ids, absent_T, np.ones(len(ids), np.float32), key=(f"gold:{example.id}", 0))


def rehearsed_item(rollout: Rollout) -> TrainingItem:
    """A completion of the initial policy as a training item: its target is what that policy recorded when it sampled."""
    with np.errstate(divide="ignore"):
        tail_logprob_T = np.log(rollout.tail_mass_T)
    target = Target(
        *rollout.key,
        len(rollout.prompt_ids),
        rollout.topk_ids_TK,
        rollout.topk_logprobs_TK,
        tail_logprob_T,
        rollout.logprobs_T,
        rollout.entropy_T,
    )
    length, key = len(rollout.completion_ids), (f"rehearsal:{rollout.example_id}", rollout.sample_index)
    absent_T = np.full(length, np.nan, np.float32)  # there is no old policy to correct for: it is the target itself
    weights_T = np.ones(length, np.float32)
    return TrainingItem(
        rollout.prompt_ids, rollout.prompt_ids, rollout.completion_ids, absent_T, weights_T, target, key
    )


def initial_divergence(
    student: Policy,
    initial: TeacherWeights,
    hidden_NH: Tensor,
    batch: Sequence[TrainingItem],
    tokens_N: Tensor,
    weights_N: Tensor,
    config: CampaignConfig,
) -> Tensor:
    """beta sum_n w_n KL(S_n || S_0n), with gradient to `hidden_NH` and the student's head; never a logits tensor."""
    with torch.no_grad(), initial.scoring():
        prompts, completions = [item.prompt_ids for item in batch], [item.completion_ids for item in batch]
        initial_NH = completion_hidden(initial.policy, prompts, completions)
    targets = HiddenTargets(initial_NH, initial.policy.head)
    result = distillation_loss(hidden_NH, student.head, targets, tokens_N, weights_N, _REVERSE_KL)
    return config.distillation.initial_kl * result.loss_sum
