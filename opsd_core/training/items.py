"""Completions as the trainer gets them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from opsd_core.config import CampaignConfig
from opsd_core.models.policy import Policy
from opsd_core.records.examples import Example
from opsd_core.records.grades import GradedRollout
from opsd_core.records.rollouts import Key, Rollout
from opsd_core.records.targets import Target
from opsd_core.selection.token_weights import WeightInputs, token_weights
from opsd_core.training.importance import old_logprobs


@dataclass(frozen=True)
class TrainingItem:
    """One kept rollout with what the teacher sees and, for recorded targets, what it said."""

    prompt_ids: list[int]
    teacher_prompt_ids: list[int]
    completion_ids: list[int]
    rollout_logprobs_T: np.ndarray
    """log pi_old of the sampled tokens, at `importance.old_temperature`; nan where nothing was sampled (a reference)."""
    weights_T: np.ndarray
    target: Target | None = None
    key: tuple[str, int] = ("", 0)
    """Identity within an iteration; the student's noise follows from it."""
    rollout_entropy_T: np.ndarray | None = None
    """Nats, of the policy that sampled; opsa needs it."""
    advantages_T: np.ndarray | None = None
    """A of -A log S(y), without a teacher; None = 1."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the longer side; what a forward pass has to hold."""
        return max(len(self.prompt_ids), len(self.teacher_prompt_ids)) + len(self.completion_ids)


def training_items(
    rollouts: Sequence[Rollout],
    grades: Sequence[GradedRollout],
    targets: Sequence[Target],
    prompts: Mapping[Key, list[int]],
    examples: Mapping[str, Example],
    student: Policy,
    config: CampaignConfig,
) -> list[TrainingItem]:
    """Kept rollouts, in the order of their keys, joined with what the teacher sees (`prompts`) and said (`targets`).

    `targets` is empty where the teacher answers during training; the order does not depend on shards.
    """
    kept = {grade.key: grade for grade in grades if grade.keep}
    scored = {target.key: target for target in targets}
    special = frozenset(student.tokenizer.all_special_ids) - frozenset(student.eos_ids)
    items = []
    for r in sorted((r for r in rollouts if r.key in kept), key=lambda r: r.key):
        target = scored[r.key] if targets else None
        inputs = WeightInputs(
            completion_ids=r.completion_ids,
            prompt_ids=r.prompt_ids,
            teacher_prompt_ids=prompts[r.key],
            answer_ids=_encodings(student.tokenizer, examples[r.example_id].answer),
            special_ids=special,
            truncated=r.truncated,
            student_entropy_T=r.entropy_T,
            teacher_entropy_T=target.entropy_T if target else None,
            sample_weight=kept[r.key].weight,
        )
        items.append(
            TrainingItem(
                prompt_ids=r.prompt_ids,
                teacher_prompt_ids=prompts[r.key],
                completion_ids=r.completion_ids,
                rollout_logprobs_T=old_logprobs(r, config.rollout),
                weights_T=token_weights(inputs, config),
                target=target,
                key=r.key,
                rollout_entropy_T=r.entropy_T,
            )
        )
    return items


def answer_ids(
    items: Sequence[TrainingItem], examples: Mapping[str, Example], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Token ids of each item's reference answer; empty where there is none."""
    return [tokenizer.encode(examples[item.key[0]].answer, add_special_tokens=False) for item in items]


def _encodings(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[list[int]]:
    """The answer's token ids at the start of a text and after a space: many tokenizers tell these apart."""
    return [tokenizer.encode(text, add_special_tokens=False) for text in (answer, f" {answer}")]
