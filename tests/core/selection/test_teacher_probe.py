"""pytest tests/core/selection/test_teacher_probe.py — what the teacher makes of the reference answers."""

import numpy as np
import pytest
import torch

from opsd_core.config import resolve
from opsd_core.selection.teacher_probe import probe_answers
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.probes import run_probes
from opsd_core.training.trainer import TrainingItem, objective
from tests.core.small import small_policy

PROMPTS, ANSWERS = ("12+3=", "a", "what is 7 ?"), ("15", "bcd", "7")


def whole_logprobs(policy, prompt, answer):
    """(A, V): the sequence alone, all logits, the rows that predict the answer."""
    with torch.inference_mode():
        logits = policy.model(input_ids=torch.tensor([prompt + answer])).logits[0].float()
    return torch.log_softmax(logits[len(prompt) - 1 : -1], -1)


@pytest.mark.parametrize("max_tokens", [8, 4096])
def test_gain_and_greedy_answer_by_whole_sequences(max_tokens):
    student, teacher = small_policy(0), small_policy(1)
    encode = student.tokenizer.encode
    prompts, hinted = [encode(p) for p in PROMPTS], [encode(f"9|{p}") for p in PROMPTS]
    answers = [encode(a) for a in ANSWERS]
    answers[2] = [int(whole_logprobs(teacher, hinted[2], answers[2])[0].argmax())]  # what the teacher would write
    probed = probe_answers(FixedTeacher(teacher), student, hinted, prompts, answers, max_tokens)
    for found, prompt, hint, answer in zip(probed, prompts, hinted, answers, strict=True):
        columns = torch.tensor(answer)[:, None]
        told, alone = whole_logprobs(teacher, hint, answer), whole_logprobs(student, prompt, answer)
        gain = told.gather(1, columns) - alone.gather(1, columns)
        assert found.gain == pytest.approx(float(gain.mean()), abs=1e-3)
        assert found.answers_itself == (told.argmax(-1).tolist() == answer)
    assert probed[2].answers_itself


def test_drift_is_measured_against_the_first_policy_without_its_context():
    student, initial = small_policy(0), small_policy(1)
    settings = resolve("tiny", {"control": True, "distillation": {"targets": "online"}})
    encode, items = student.tokenizer.encode, []
    for prompt, completion in zip(PROMPTS, ANSWERS, strict=True):
        zeros, ids = np.zeros(len(completion), np.float32), encode(completion)
        weights = np.full(len(ids), 0.25, np.float32)
        items.append(TrainingItem(encode(prompt), encode(f"9|{prompt}"), ids, zeros, weights))
    metrics = run_probes(student, FixedTeacher(initial), items, [], settings)
    differences = []
    for item in items:
        columns = torch.tensor(item.completion_ids)[:, None]
        own, first = (whole_logprobs(p, item.prompt_ids, item.completion_ids).gather(1, columns) for p in (student, initial))
        differences.append(own - first)
    assert metrics["drift/kl_to_init"] == pytest.approx(float(torch.cat(differences).mean()), abs=1e-3)
    with torch.no_grad():
        divergence = objective(student, FixedTeacher(initial), items, settings).divergence_N
    assert metrics["teacher/divergence"] == pytest.approx(float(divergence.mean()), rel=1e-5)  # per token, whatever it weighs


def test_the_student_itself_gains_nothing():
    student = small_policy(0)
    prompts = [student.tokenizer.encode(p) for p in PROMPTS]
    answers = [student.tokenizer.encode(a) for a in ANSWERS]
    probed = probe_answers(FixedTeacher(student), student, prompts, prompts, answers, 64)
    assert all(abs(answer.gain) < 1e-4 for answer in probed)
