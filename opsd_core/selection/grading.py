"""Grade an iteration's completions and decide which are trained on; nothing is deleted, every drop has its reason."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from opsd_core.config import CampaignConfig
from opsd_core.graders import Grade, get_grader, grader_name
from opsd_core.graders.agreement import agreements, final_answer
from opsd_core.records.examples import Example
from opsd_core.records.grades import GradedRollout
from opsd_core.records.rollouts import Key, Rollout
from opsd_core.selection.curriculum import Counts, add_grades, pass_rate
from opsd_core.selection.filters import Decision, GradedCompletion, count_reasons, filter_rollouts
from opsd_core.selection.leaks import leaks_text
from opsd_core.selection.monitors import completion_metrics, target_metrics

Withheld = Callable[[Mapping[Key, bool | None]], Mapping[Key, str]]
"""Of the grades so far: the completions that the teacher cannot be shown a context for, with the reason."""
_UNSOLVED = Decision(keep=False, reason="no_peer_solved")


class Graded(NamedTuple):
    """What became of an iteration's rollouts: a row for each, and figures about all."""

    rows: list[GradedRollout]
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

    `counts`: right and graded completions per prompt of earlier iterations. `unsolved`: prompts that no teacher solves. A
    reference is not an attempt: it counts for no pass rate and no vote, and no filter of attempts applies to it.
    """
    sampled = [r for r in rollouts if r.source == "policy"]
    references = [r for r in rollouts if r.source == "reference"]
    grader = get_grader(grader_name(config.data))
    grades = [_grade(grader, examples[r.example_id], r.completion_text) for r in sampled]
    answers = [g.extracted if g else final_answer(r.completion_text) for r, g in zip(sampled, grades, strict=True)]
    completions = _completions(sampled, grades, answers, examples, counts or {}, config)
    decisions = filter_rollouts(completions, config.filter)
    reasons = {r.key: _UNSOLVED.reason for r in sampled if r.example_id in unsolved}
    if withheld is not None:
        reasons |= withheld({r.key: g.correct if g else None for r, g in zip(sampled, grades, strict=True)})
    decisions = [
        Decision(keep=False, reason=reasons[r.key]) if d.keep and r.key in reasons else d
        for r, d in zip(sampled, decisions, strict=True)
    ]
    rows = [
        _row(r, g, answer, c, d)
        for r, g, answer, c, d in zip(sampled, grades, answers, completions, decisions, strict=True)
    ]
    rows += [_reference_row(r, r.example_id in unsolved) for r in references]
    accepted = [_grade(grader, examples[r.example_id], r.completion_text) for r in references]
    metrics = completion_metrics(sampled, [c.leaks for c in completions], config.filter.max_repetition)
    metrics |= target_metrics([row.keep for row in rows])
    metrics |= _accuracy("rollout/accuracy", grades) | _accuracy("references/accuracy", accepted)
    return Graded(rows, metrics)


def _grade(grader: Callable[[Example, str], Grade], example: Example, text: str) -> Grade | None:
    return grader(example, text) if example.answer else None


def _accuracy(name: str, grades: Sequence[Grade | None]) -> dict[str, float]:
    correct = [grade.correct for grade in grades if grade is not None]
    return {name: sum(correct) / len(correct)} if correct else {}


def _completions(
    rollouts: Sequence[Rollout],
    grades: Sequence[Grade | None],
    answers: Sequence[str | None],
    examples: Mapping[str, Example],
    counts: Counts,
    config: CampaignConfig,
) -> list[GradedCompletion]:
    """What the filters look at. Pass rates include these completions."""
    votes = agreements([r.example_id for r in rollouts], answers)
    counts = add_grades(counts, [(r.example_id, g.correct if g else None) for r, g in zip(rollouts, grades, strict=True)])
    return [
        GradedCompletion(
            r.completion_text,
            len(r.completion_ids),
            r.truncated,
            correct=g.correct if g else None,
            score=g.score if g else None,
            leaks=_leaks(examples[r.example_id], r.completion_text, config),
            agreement=vote,
            pass_rate=pass_rate(counts, r.example_id),
        )
        for r, g, vote in zip(rollouts, grades, votes, strict=True)
    ]


def _leaks(example: Example, text: str, config: CampaignConfig) -> bool:
    """Whether a completion repeats the worked solution, or says that it saw one. The answer alone is not a secret."""
    public = f"{example.question} {example.answer}"
    return leaks_text(text, example.solution, public, config.filter.leak_words, config.filter.leak_phrases)


def _row(
    rollout: Rollout, grade: Grade | None, answer: str | None, completion: GradedCompletion, decision: Decision
) -> GradedRollout:
    return GradedRollout(
        *rollout.key,
        correct=grade.correct if grade else None,
        score=grade.score if grade else None,
        extracted=answer,
        keep=decision.keep,
        reason=decision.reason,
        weight=decision.weight,
        leaks=completion.leaks,
        agreement=completion.agreement.share,
        agrees=completion.agreement.agrees,
    )


def _reference_row(rollout: Rollout, unsolved: bool) -> GradedRollout:
    return GradedRollout(*rollout.key, None, None, None, keep=not unsolved, reason=_UNSOLVED.reason if unsolved else "")
