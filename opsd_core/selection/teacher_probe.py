"""Does the teacher, with its context, know the reference answer? Asked prompt by prompt, before anything is learned.

A = tokens of all answers of a microbatch
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from opsd_core.config import CampaignConfig, FilterConfig
from opsd_core.models.forward import microbatches
from opsd_core.models.policy import Policy
from opsd_core.records.grades import GradedRollout, Grades
from opsd_core.records.keys import ByKey, Keys
from opsd_core.records.rollouts import Key, Rollout
from opsd_core.records.spool import Codec, Lazy, room_like
from opsd_core.records.stored import Chosen
from opsd_core.records.views import longest
from opsd_core.selection.filters import teacher_probe_reason
from opsd_core.selection.grading import Graded
from opsd_core.selection.monitors import target_metrics
from opsd_core.teacher.scoring import answer_logprobs
from opsd_core.teacher.teachers import FixedTeacher, TeacherWeights

_ASKED: Codec[Sequence[Sequence[int]]] = Codec(("<i4",) * 3, lambda ids: ids, lambda ids: [part.tolist() for part in ids])
"""Token ids of both sides' prompts and of the answer."""


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
    keys, kept = Keys.of(row.key for row in graded.rows), np.array([row.keep for row in graded.rows], bool)
    of_rollouts = Keys.of(r.key for r in rollouts)
    places = of_rollouts.places_in(keys)
    numbers = np.flatnonzero((places >= 0) & kept[places]) if len(keys) else places[:0]
    labelled = np.fromiter((bool(answers[of_rollouts[int(number)][0]]) for number in numbers), bool, len(numbers))
    asked = Chosen(rollouts, numbers[labelled])
    texts = room_like(asked, _ASKED)
    for number, r in enumerate(asked):
        answer = student.tokenizer.encode(answers[r.example_id], add_special_tokens=False)
        texts[number] = (prompts[r.key], r.prompt_ids, answer)
    columns = [Lazy(len(texts), lambda number, part=part: texts[number][part]) for part in range(3)]
    probed = probe_answers(teacher, student, *columns, config.execution.microbatch_tokens)
    by_key = ByKey(Keys.of(of_rollouts[int(number)] for number in numbers[labelled]), probed.__getitem__)
    rows = Grades.of(_after_probe(row, by_key.get(row.key), config.filter) for row in graded.rows)
    return Graded(rows, graded.metrics | target_metrics(rows.column("keep")))


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
) -> Sequence[ProbedAnswer]:
    """One entry per prompt, in order; temperatures and truncation play no part. Source: TGOPD, arXiv:2609.02998."""
    gains, rights = np.zeros(len(answers)), np.zeros(len(answers), bool)
    sizes = (max(longest(t), len(s)) + len(a) for t, s, a in zip(teacher_prompts, student_prompts, answers, strict=True))
    lengths = np.fromiter(sizes, np.int64, len(answers))
    for rows in microbatches(lengths, max_tokens):
        chosen = [answers[row] for row in rows]
        tokens_A1 = torch.tensor([token for answer in chosen for token in answer], device=student.device)[:, None]
        teachers_AV = answer_logprobs(teacher, [teacher_prompts[row] for row in rows], chosen)
        students_AV = answer_logprobs(FixedTeacher(student), [student_prompts[row] for row in rows], chosen)
        gain_A = (teachers_AV.gather(1, tokens_A1) - students_AV.gather(1, tokens_A1)).squeeze(1)
        right_A = teachers_AV.argmax(-1) == tokens_A1.squeeze(1)
        sizes = [len(answer) for answer in chosen]
        for row, gain, right in zip(rows, gain_A.split(sizes), right_A.split(sizes), strict=True):
            gains[row], rights[row] = gain.mean().item(), bool(right.all())
    return Lazy(len(answers), lambda row: ProbedAnswer(float(gains[row]), bool(rights[row])))
