"""Grade an iteration's completions and decide which are trained on; nothing is deleted, every drop has its reason.

Completions are looked at one after the other, in several passes; what stays of each is its grade, a row of columns.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from opsd_core.config import CampaignConfig, RolloutConfig
from opsd_core.graders import Grade, get_grader
from opsd_core.graders.agreement import Votes, final_answer, votes_of
from opsd_core.records.examples import Example
from opsd_core.records.grades import GradedRollout, Grades
from opsd_core.records.rollouts import Key, Rollout
from opsd_core.selection.curriculum import Counts, add_grades, pass_rate
from opsd_core.selection.filters import Decision, GradedCompletion, count_reasons, filter_rollouts
from opsd_core.selection.groups import keep_per_prompt
from opsd_core.selection.leaks import leaks_text
from opsd_core.selection.monitors import completion_metrics, target_metrics

Withheld = Callable[[Mapping[Key, bool | None]], Mapping[Key, str]]
"""Of the grades so far: the completions that the teacher cannot be shown a context for, with the reason."""
_UNSOLVED = Decision(keep=False, reason="no_peer_solved")


class Graded(NamedTuple):
    """What became of an iteration's rollouts: a row for each, and figures about all."""

    rows: Sequence[GradedRollout]
    """Sampled completions in the order of the rollouts, then references."""
    metrics: dict[str, float]

    @property
    def num_kept(self) -> int:
        """Completions that are trained on."""
        return sum(row.keep for row in self.rows)

    @property
    def reasons(self) -> dict[str, int]:
        """How often each reason was given; "kept" for those that stay."""
        return count_reasons(self.rows)


def grade_rollouts(
    rollouts: Sequence[Rollout],
    examples: Mapping[str, Example],
    config: CampaignConfig,
    *,
    counts: Counts | None = None,
    withheld: Withheld | None = None,
    unsolved: AbstractSet[str] = frozenset(),
) -> Graded:
    """Judge every completion, let each prompt's completions vote, and apply the filters of `config.filter`.

    `rollouts` may be stored ones (`opsd_core.records.rollouts.StoredRollouts`): then none but the one at hand is in memory.
    `counts`: right and graded completions per prompt of earlier iterations. `unsolved`: prompts that no teacher solves. A
    reference is not an attempt: it counts for no pass rate and no vote, and no filter of attempts applies to it.
    """
    sampled, references = Of(rollouts, "policy"), Of(rollouts, "reference")
    grader = get_grader(config.data)
    judged = Grades.of(_judged(r, _grade(grader, examples[r.example_id], r.answer_text)) for r in sampled)
    reasons: Mapping[Key, str] = withheld(judged.correct()) if withheld is not None else {}
    seen = _Seen(examples, config, judged, counts or {}, unsolved, reasons)
    leaks, lengths = np.zeros(len(judged), bool), np.zeros(len(judged), np.int64)
    rows = keep_per_prompt(Grades.of(seen.rows(sampled, references, leaks, lengths)), lengths, config)
    accepted = (_grade(grader, examples[r.example_id], r.completion_text) for r in references)
    metrics = completion_metrics(sampled, leaks, config.filter.max_repetition)
    metrics |= target_metrics(rows.column("keep"))
    metrics |= _accuracy("rollout/accuracy", _first_asked(judged, config.rollout))
    metrics |= _accuracy("rollout/prompts_right", _of_prompts(judged))
    metrics |= _accuracy("references/accuracy", (grade.correct if grade else None for grade in accepted))
    return Graded(rows, metrics)


class Of(Iterable[Rollout]):
    """The rollouts of one source, as often as they are asked for."""

    def __init__(self, rollouts: Iterable[Rollout], source: str) -> None:
        self._rollouts, self._source = rollouts, source

    def __iter__(self) -> Iterator[Rollout]:
        return (rollout for rollout in self._rollouts if rollout.source == self._source)


def _grade(grader: Callable[[Example, str], Grade], example: Example, text: str) -> Grade | None:
    return grader(example, text) if example.answer else None


def _judged(rollout: Rollout, grade: Grade | None) -> GradedRollout:
    """The grade alone, before anything is decided by it; without a label the answer that votes."""
    answer = grade.extracted if grade else final_answer(rollout.answer_text)
    correct, score = (grade.correct, grade.score) if grade else (None, None)
    return GradedRollout(*rollout.key, correct, score, answer, keep=True, reason="")


def _accuracy(name: str, found: Iterable[bool | None]) -> dict[str, float]:
    right = graded = 0
    for correct in found:
        if correct is not None:
            right, graded = right + correct, graded + 1
    return {name: right / graded} if graded else {}


def _first_asked(judged: Grades, rollout: RolloutConfig) -> Iterator[bool | None]:
    """The grades of the completions that every prompt was asked for: those of prompts asked again are of the hard ones alone."""
    if not rollout.asks_again:
        return judged.column("correct")
    columns = zip(judged.column("sample_index"), judged.column("correct"), strict=True)
    return (correct for sample_index, correct in columns if sample_index < rollout.group_size)


def _of_prompts(judged: Grades) -> Iterable[bool]:
    """Of each prompt with a label whether some completion of it is right."""
    right: dict[str, bool] = {}
    for example_id, correct in zip(judged.column("example_id"), judged.column("correct"), strict=True):
        if correct is not None:
            right[example_id] = right.get(example_id, False) or correct
    return right.values()


@dataclass(frozen=True)
class _Seen:
    """What the filters look at besides a completion."""

    examples: Mapping[str, Example]
    config: CampaignConfig
    judged: Grades
    counts: Counts
    """Of earlier iterations."""
    unsolved: AbstractSet[str]
    withheld: Mapping[Key, str]

    def rows(
        self, sampled: Iterable[Rollout], references: Iterable[Rollout], leaks_N: np.ndarray, lengths_N: np.ndarray
    ) -> Iterator[GradedRollout]:
        """Every completion with its decision; whether a sampled one leaks, and its tokens, are written to the arrays."""
        votes, known = votes_of(self.judged.column("example_id"), self.judged.column("extracted")), self._known()
        for number, (rollout, judged) in enumerate(zip(sampled, self.judged, strict=True)):
            completion = self._completion(rollout, judged, votes, number, known)
            (decision,) = filter_rollouts([completion], self.config.filter)
            reason = self.withheld.get(rollout.key) or (_UNSOLVED.reason if rollout.example_id in self.unsolved else "")
            if decision.keep and reason:
                decision = Decision(keep=False, reason=reason)
            leaks_N[number], lengths_N[number] = completion.leaks, completion.num_tokens
            yield _row(judged, completion, decision)
        for rollout in references:
            yield _reference_row(rollout, rollout.example_id in self.unsolved)

    def _known(self) -> Counts | None:
        """Pass rates with these completions, where a filter asks for them."""
        if self.config.filter.route != "pass_rate":
            return None
        columns = (self.judged.column(name) for name in ("example_id", "correct"))
        return add_grades(self.counts, zip(*columns, strict=True))

    def _completion(
        self, rollout: Rollout, judged: GradedRollout, votes: Votes, number: int, known: Counts | None
    ) -> GradedCompletion:
        return GradedCompletion(
            rollout.completion_text,
            rollout.num_sampled,
            rollout.truncated,
            correct=judged.correct,
            score=judged.score,
            leaks=_leaks(self.examples[rollout.example_id], rollout.completion_text, self.config),
            agreement=votes[number],
            pass_rate=None if known is None else pass_rate(known, rollout.example_id),
        )


def _leaks(example: Example, text: str, config: CampaignConfig) -> bool:
    """Whether a completion repeats the worked solution, or says that it saw one. The answer alone is not a secret."""
    public = f"{example.question} {example.answer}"
    return leaks_text(text, example.solution, public, config.filter.leak_words, config.filter.leak_phrases)


def _row(judged: GradedRollout, completion: GradedCompletion, decision: Decision) -> GradedRollout:
    return replace(
        judged,
        keep=decision.keep,
        reason=decision.reason,
        weight=decision.weight,
        leaks=completion.leaks,
        agreement=completion.agreement.share,
        agrees=completion.agreement.agrees,
    )


def _reference_row(rollout: Rollout, unsolved: bool) -> GradedRollout:
    return GradedRollout(*rollout.key, None, None, None, keep=not unsolved, reason=_UNSOLVED.reason if unsolved else "")
