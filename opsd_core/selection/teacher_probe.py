"""Does the teacher, with its context, know the reference answer? Asked prompt by prompt, before anything is learned.

A = tokens of all answers of a microbatch
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from opsd_core.config import CampaignConfig, FilterConfig
from opsd_core.models.forward import microbatches
from opsd_core.models.policy import Policy
from opsd_core.records.grades import GradedRollout
from opsd_core.records.rollouts import Key, Rollout
from opsd_core.selection.filters import teacher_probe_reason
from opsd_core.selection.grading import Graded
from opsd_core.selection.monitors import target_metrics
from opsd_core.teacher.scoring import answer_logprobs
from opsd_core.teacher.teachers import FixedTeacher, TeacherWeights


class ProbedAnswer(NamedTuple):
    """What the teacher makes of one reference answer."""

    gain: float
    """Mean over its tokens of log T(token | teacher's prompt) - log S(token | student's prompt), in nats."""
    answers_itself: bool
    """Each of its tokens is the teacher's most likely one: greedy decoding would give it."""


def probe_grades(
    graded: Graded,
    rollouts: Sequence[Rollout],
    prompts: Mapping[Key, Sequence[int]],
    answers: Mapping[str, str],
    sides: tuple[TeacherWeights, Policy],
    config: CampaignConfig,
) -> Graded:
    """The grades after filter.teacher_probe, which looks at what the other filters kept and has a reference answer.

    `prompts`: the teacher's, by completion; `answers`: reference answers by example id; `sides`: teacher and student.
    """
    teacher, student = sides
    kept = {row.key for row in graded.rows if row.keep}
    asked = [r for r in rollouts if r.key in kept and answers[r.example_id]]
    probed = probe_answers(
        teacher,
        student,
        [prompts[r.key] for r in asked],
        [r.prompt_ids for r in asked],
        [student.tokenizer.encode(answers[r.example_id], add_special_tokens=False) for r in asked],
        config.execution.microbatch_tokens,
    )
    by_key = {r.key: answer for r, answer in zip(asked, probed, strict=True)}
    rows = [_after_probe(row, by_key.get(row.key), config.filter) for row in graded.rows]
    return Graded(rows, graded.metrics | target_metrics([row.keep for row in rows]))


def _after_probe(row: GradedRollout, probed: ProbedAnswer | None, config: FilterConfig) -> GradedRollout:
    if probed is None:
        return row
    reason = teacher_probe_reason(probed.gain, probed.answers_itself, config)
    return replace(row, keep=not reason, reason=reason, teacher_gain=probed.gain)


@torch.inference_mode()
def probe_answers(
    teacher: TeacherWeights,
    student: Policy,
    teacher_prompts: Sequence[Sequence[int]],
    student_prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    max_tokens: int,
) -> list[ProbedAnswer]:
    """One entry per prompt, in order; temperatures and truncation play no part. Source: TGOPD, arXiv:2609.02998."""
    probed: list[ProbedAnswer | None] = [None] * len(answers)
    lengths = [
        max(len(t), len(s)) + len(a) for t, s, a in zip(teacher_prompts, student_prompts, answers, strict=True)
    ]
    for rows in microbatches(lengths, max_tokens):
        chosen = [answers[row] for row in rows]
        tokens_A1 = torch.tensor([token for answer in chosen for token in answer], device=student.device)[:, None]
        teachers_AV = answer_logprobs(teacher, [teacher_prompts[row] for row in rows], chosen)
        students_AV = answer_logprobs(FixedTeacher(student), [student_prompts[row] for row in rows], chosen)
        gain_A = (teachers_AV.gather(1, tokens_A1) - students_AV.gather(1, tokens_A1)).squeeze(1)
        right_A = teachers_AV.argmax(-1) == tokens_A1.squeeze(1)
        sizes = [len(answer) for answer in chosen]
        for row, gain, right in zip(rows, gain_A.split(sizes), right_A.split(sizes), strict=True):
            probed[row] = ProbedAnswer(gain.mean().item(), bool(right.all()))
    return probed
