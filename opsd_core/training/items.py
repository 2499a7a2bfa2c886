"""Completions as the trainer gets them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from opsd_core.config import CampaignConfig
from opsd_core.models.policy import Policy
from opsd_core.records.examples import Example
from opsd_core.records.grades import GradedRollout, Grades
from opsd_core.records.rollouts import Key, Rollout, StoredRollouts
from opsd_core.records.spool import Codec, Spooled, array_text, text_array
from opsd_core.records.targets import TARGET_DTYPES, StoredTargets, Target, decode_target, encode_target
from opsd_core.records.views import longest
from opsd_core.selection.token_weights import WeightInputs, token_weights
from opsd_core.training.importance import old_logprobs


@dataclass(frozen=True)
class TrainingItem:
    """One kept rollout with what the teacher sees and, for recorded targets, what it said."""

    prompt_ids: list[int]
    teacher_prompt_ids: list[int]
    """Where the teacher's members see several contexts, all of their prompts, `joined`."""
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
    sampled_T: np.ndarray | None = None
    """As `Rollout.sampled_T`. Where an environment wrote, the weight is 0."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the longer side; what a forward pass has to hold."""
        return max(len(self.prompt_ids), longest(self.teacher_prompt_ids)) + len(self.completion_ids)


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
    make = _Maker(prompts, examples, student, config)
    rows = sorted((r for r in rollouts if r.key in kept), key=lambda r: r.key)
    return [make.item(r, kept[r.key].weight, scored[r.key] if targets else None) for r in rows]


class Recorded(NamedTuple):
    """What is stored of an iteration's completions."""

    rollouts: StoredRollouts
    grades: Grades
    targets: StoredTargets | None
    """None where the teacher answers during training."""


def stored_items(
    recorded: Recorded,
    prompts: Mapping[Key, list[int]],
    examples: Mapping[str, Example],
    student: Policy,
    config: CampaignConfig,
    wanted: Callable[[int], Iterable[int]],
) -> tuple[Spooled[TrainingItem], int]:
    """`training_items` on disk, and the most tokens of any: of all kept rollouts only those that training asks for are read.

    `wanted(n)`: which of n items will be asked for; the others are not there (IndexError).
    """
    rollouts, keys = recorded.rollouts.light, recorded.rollouts.keys()
    places = keys.places_in(recorded.grades.keys())
    keep = np.fromiter(recorded.grades.column("keep"), bool, len(recorded.grades))
    kept = np.flatnonzero((places >= 0) & keep[places]) if len(keep) else places[:0]
    order = keys.order[np.isin(keys.order, kept)]
    asked = np.unique(np.fromiter(wanted(len(order)), np.int64))
    by_file = asked[np.argsort(order[asked])]
    items, make = Spooled(len(order), ITEMS, rollouts.folder), _Maker(prompts, examples, student, config)
    targets = None if recorded.targets is None else recorded.targets.by_key()
    numbers = [int(order[item]) for item in by_file]
    for item, r, number in zip(by_file.tolist(), rollouts.rows(numbers), numbers, strict=True):
        grade = recorded.grades[int(places[number])]
        items[item] = make.item(r, grade.weight, None if targets is None else targets[r.key])
    return items, _longest(recorded.rollouts, prompts, kept)


def _longest(rollouts: StoredRollouts, prompts: Mapping[Key, list[int]], kept: np.ndarray) -> int:
    """`num_tokens` of the longest item of the rollouts `kept`."""
    most, start = 0, 0
    for part in rollouts.batches(["example_id", "sample_index", "prompt_ids", "completion_ids"]):
        own, answered = (part[name].value_lengths().to_numpy() for name in ("prompt_ids", "completion_ids"))
        names, samples = part["example_id"].to_pylist(), part["sample_index"].to_pylist()
        first, last = np.searchsorted(kept, [start, start + len(part)])
        for row in (kept[first:last] - start).tolist():
            most = max(most, max(int(own[row]), longest(prompts[names[row], samples[row]])) + int(answered[row]))
        start += len(part)
    return most


@dataclass
class _Maker:
    """What an item is made of besides its rollout."""

    prompts: Mapping[Key, list[int]]
    examples: Mapping[str, Example]
    student: Policy
    config: CampaignConfig

    def __post_init__(self) -> None:
        self._special = frozenset(self.student.tokenizer.all_special_ids) - frozenset(self.student.eos_ids)

    def item(self, rollout: Rollout, weight: float, target: Target | None) -> TrainingItem:
        inputs = WeightInputs(
            completion_ids=rollout.completion_ids,
            prompt_ids=rollout.prompt_ids,
            teacher_prompt_ids=self.prompts[rollout.key],
            answer_ids=_encodings(self.student.tokenizer, self.examples[rollout.example_id].answer),
            special_ids=self._special,
            truncated=rollout.truncated,
            student_entropy_T=rollout.entropy_T,
            teacher_entropy_T=target.entropy_T if target else None,
            sample_weight=weight,
            sampled_T=rollout.sampled_T,
        )
        return TrainingItem(
            prompt_ids=rollout.prompt_ids,
            teacher_prompt_ids=inputs.teacher_prompt_ids,
            completion_ids=rollout.completion_ids,
            rollout_logprobs_T=old_logprobs(rollout, self.config.rollout),
            weights_T=token_weights(inputs, self.config),
            target=target,
            key=rollout.key,
            rollout_entropy_T=rollout.entropy_T,
            sampled_T=rollout.sampled_T,
        )


def _encode(item: TrainingItem) -> list:
    ids = [item.prompt_ids, item.teacher_prompt_ids, item.completion_ids]
    target = [[]] * len(TARGET_DTYPES) if item.target is None else encode_target(item.target)
    optional_T = (item.rollout_entropy_T, item.advantages_T)
    facts = [item.key[1], item.target is not None, item.sampled_T is not None, *(values_T is not None for values_T in optional_T)]
    numbers = [item.rollout_logprobs_T, item.weights_T, *([] if values_T is None else values_T for values_T in optional_T)]
    return [text_array(item.key[0]), facts, [] if item.sampled_T is None else item.sampled_T, *ids, *numbers, *target]


def _decode(arrays: Sequence[np.ndarray]) -> TrainingItem:
    name, (sample, scored, talked, *has), sampled_T, *rest = arrays
    ids, (logprobs_T, weights_T, *optional_T), target = [part.tolist() for part in rest[:3]], rest[3:7], rest[7:]
    entropy_T, advantages_T = (values_T if there else None for there, values_T in zip(has, optional_T, strict=True))
    known = decode_target(target) if scored else None
    own = {"sampled_T": sampled_T.astype(bool)} if talked else {}
    return TrainingItem(*ids, logprobs_T, weights_T, known, (array_text(name), int(sample)), entropy_T, advantages_T, **own)


ITEMS: Codec[TrainingItem] = Codec(("|u1", "<i4", "|u1", *["<i4"] * 3, *["<f4"] * 4, *TARGET_DTYPES), _encode, _decode)
"""Training items on disk; nothing of an item is left out or rounded."""


def answer_ids(
    items: Sequence[TrainingItem], examples: Mapping[str, Example], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Token ids of each item's reference answer; empty where there is none."""
    return [tokenizer.encode(examples[item.key[0]].answer, add_special_tokens=False) for item in items]


def _encodings(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[list[int]]:
    """The answer's token ids at the start of a text and after a space: many tokenizers tell these apart."""
    return [tokenizer.encode(text, add_special_tokens=False) for text in (answer, f" {answer}")]
