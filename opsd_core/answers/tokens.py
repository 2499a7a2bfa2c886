"""Completions token by token: what the student drew, how likely the teacher finds it, and what both would have said.

T = tokens of a completion. Only what is recorded is shown: log S from the rollouts, log T from the targets.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opsd_core.digest import derive_seed
from opsd_core.records.examples import Example
from opsd_core.records.grades import GradedRollout
from opsd_core.records.rollouts import Key, Rollout, entries_of, light_of
from opsd_core.records.spool import Lazy
from opsd_core.records.targets import Target
from opsd_core.records.views import views_in_words
from opsd_core.teacher.scoring import divergence_along

_LIKELIEST = 4
"""Tokens of each side shown at a position."""
_CURVE_COMPLETIONS = 512
"""Completions that the curve along positions is averaged over, at most."""
TokenText = Callable[[int], str]


@dataclass(frozen=True)
class Sampled:
    """An iteration's completions, and what is known about each."""

    rollouts: Sequence[Rollout]
    grades: Mapping[Key, GradedRollout]
    token_text: TokenText
    """A token's id -> how it is written."""
    prompt_text: Callable[[Sequence[int]], str]
    """Token ids of a prompt -> its text, control tokens included."""
    targets: Mapping[Key, Target] = field(default_factory=dict)
    examples: Mapping[str, Example] = field(default_factory=dict)
    privileged: Mapping[Key, Sequence[int]] = field(default_factory=dict)
    """The teacher's prompt of a completion, token ids."""
    note: str = ""
    """How log T came about, or why it is not there."""


def states(rollout: Rollout, grade: GradedRollout | None) -> list[str]:
    """What a completion can be found by: right, wrong or ungraded; cut; reference; trained on, or dropped with its reason."""
    correct = grade.correct if grade else None
    found = [
        "reference" if rollout.source == "reference" else {True: "right", False: "wrong", None: "ungraded"}[correct]
    ]
    if rollout.truncated:
        found.append("cut")
    if grade is not None:
        found.append("trained on" if grade.keep else f"dropped: {grade.reason or 'no reason'}")
    return found


def drawn(sampled: Sampled) -> Sequence[Rollout]:
    """The completions in the order in which they are shown: in turns from every combination of states, those with log T first."""
    groups: dict[tuple[str, ...], tuple[array, bytearray, array]] = defaultdict(lambda: (array("q"), bytearray(), array("Q")))
    for number, rollout in enumerate(light_of(sampled.rollouts)):
        if len(rollout.completion_ids):
            numbers, unscored, seeds = groups[tuple(states(rollout, sampled.grades.get(rollout.key)))]
            numbers.append(number)
            unscored.append(rollout.key not in sampled.targets)
            seeds.append(derive_seed("answers", *rollout.key))
    turns, rows = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
    for rank, (_, (numbers, unscored, seeds)) in enumerate(sorted(groups.items())):
        order = np.lexsort((np.array(seeds), np.array(unscored)))
        rows.append(np.array(numbers)[order])
        turns.append(np.stack([np.arange(len(order)), np.full(len(order), rank)], axis=1))
    turn_rank = np.concatenate(turns)
    shown = np.concatenate(rows)[np.lexsort((turn_rank[:, 1], turn_rank[:, 0]))]
    return Lazy(len(shown), lambda place: sampled.rollouts[int(shown[place])])


def token_rows(sampled: Sampled, rollout: Rollout, vocabulary: dict[int, int]) -> dict[str, Any]:
    """One completion for the page: `ids` and the sides' likeliest tokens as places in `vocabulary`, which grows.

    log-probabilities in hundredths of nats: `s` (T,) of the student, `t` (T,) of the teacher or None; `S` and `T` hold per
    position [token, log-probability, token, ...], likeliest first. Where an environment wrote, they are None and empty.
    """
    grade, target = sampled.grades.get(rollout.key), sampled.targets.get(rollout.key)
    example = sampled.examples.get(rollout.example_id)
    own_T = np.ones(len(rollout.completion_ids), bool) if rollout.sampled_T is None else rollout.sampled_T

    def place(token: int) -> int:
        return vocabulary.setdefault(int(token), len(vocabulary))

    def likeliest(ids_TK: np.ndarray, logprobs_TK: np.ndarray) -> list[list[int]]:
        order_TK = np.argsort(-logprobs_TK, axis=1, kind="stable")[:, :_LIKELIEST]
        ids, logs = np.take_along_axis(ids_TK, order_TK, 1), np.take_along_axis(logprobs_TK, order_TK, 1)
        return [
            [n for i, p in zip(row, values, strict=True) for n in (place(i), hundredths(p))] if own else []
            for row, values, own in zip(ids, logs, own_T, strict=True)
        ]

    def along(logprobs_T: np.ndarray) -> list[int | None]:
        return [hundredths(value) if own else None for value, own in zip(logprobs_T, own_T, strict=True)]

    privileged = sampled.privileged.get(rollout.key)
    return {
        "id": rollout.example_id,
        "sample": rollout.sample_index,
        "states": states(rollout, grade),
        "extracted": grade.extracted if grade else None,
        "reference": example.answer if example else "",
        "weight": grade.weight if grade else 1.0,
        "prompt": sampled.prompt_text(rollout.prompt_ids),
        "privileged": None if privileged is None else views_in_words(privileged, sampled.prompt_text),
        "ids": [place(token) for token in rollout.completion_ids],
        "s": along(rollout.logprobs_T),
        "t": None if target is None else along(target.sampled_logprob_T),
        "S": likeliest(rollout.topk_ids_TK, rollout.topk_logprobs_TK),
        "T": None if target is None else likeliest(target.topk_ids_TK, target.topk_logprobs_TK),
    }


def hundredths(logprob: float) -> int | None:
    """A log-probability in hundredths of nats; None for one that is not a number, -99999 for an impossible token."""
    if np.isnan(logprob):
        return None
    return round(100 * max(float(logprob), -999.99))


def divergence_curve(sampled: Sampled) -> dict[str, Any]:
    """KL(student || teacher) at each position: mean, standard error and number of completions; empty where nothing is recorded.

    Over at most 512 completions that have targets, drawn with a fixed seed; positions that at least a tenth of them reach.
    """
    if not sampled.targets:
        return {"points": [], "completions": 0, "of": 0}
    numbers, seeds = array("q"), array("Q")
    for number, (rollout, entries) in enumerate(zip(light_of(sampled.rollouts), entries_of(sampled.rollouts), strict=True)):
        if entries and rollout.key in sampled.targets:
            numbers.append(number)
            seeds.append(derive_seed("answers", *rollout.key))
    first = np.array(numbers, np.int64)[np.argsort(np.array(seeds), kind="stable")[:_CURVE_COMPLETIONS]].tolist()
    gaps = {}
    for number in sorted(first):  # as they are stored, so that a row group is read once
        rollout = sampled.rollouts[number]
        gaps[number] = rollout.own(divergence_along(rollout, sampled.targets[rollout.key]))
    rows = [gaps[number] for number in first]
    return {"points": along_positions(rows), "completions": len(rows), "of": len(numbers)}


def along_positions(rows: Sequence[np.ndarray]) -> list[list[float]]:
    """[mean, standard error, rows] per position, over rows that are long enough, where at least a tenth of them are."""
    points = []
    for position in range(max(map(len, rows), default=0)):
        values = np.array([float(row[position]) for row in rows if len(row) > position])
        if len(values) < max(1, len(rows) // 10):
            break
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        points.append([round(float(values.mean()), 5), round(error, 5), len(values)])
    return points


def reader(tokenizer: Any) -> TokenText:
    """How `tokenizer` (of transformers) writes one token: leading spaces kept, control tokens by their names."""

    def text(token: int) -> str:
        piece = tokenizer.convert_ids_to_tokens(int(token))
        if isinstance(piece, str) and piece.startswith("▁"):
            return piece.replace("▁", " ")
        return tokenizer.decode([int(token)], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    return text
