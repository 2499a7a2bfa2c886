"""pytest tests/core/models/test_device.py — bfloat16 on a CPU and, with `-m gpu` on a machine that has one, the same on CUDA."""

import copy

import numpy as np
import pytest
import torch

from opsd_core.config import resolve
from opsd_core.models.forward import completion_hidden
from opsd_core.models.policy import Policy
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.trainer import TrainingItem, objective
from tests.core.small import small_policy

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])])
TEXTS = [("12+3", "4=x"), ("a", "bcdefgh"), ("what is 7 ?", "seven"), ("7+8=", "15 or so")]


def policy_on(device: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Policy:
    policy = small_policy(seed)
    policy.model.to(device, dtype)
    return policy


@on_each_device
def test_rollouts_in_bfloat16_record_float32_distributions(device):
    """Mass and tail are one to float32's rounding; the log-probabilities are those of the bfloat16 model."""
    policy = policy_on(device, torch.bfloat16)
    prompts = [policy.tokenizer.encode(text) for text, _ in TEXTS]
    made = generate(policy, prompts, list(range(len(prompts))), Sampling(max_completion_length=12, record_top_k=8), 3)
    exact = Policy(copy.deepcopy(policy.model).float(), policy.tokenizer)
    for prompt, completion in zip(prompts, made, strict=True):
        mass_T = np.exp(np.asarray(completion.topk_logprobs_TK, np.float64)).sum(1) + np.asarray(completion.tail_mass_T)
        assert mass_T == pytest.approx(np.ones_like(mass_T), abs=1e-5)
        with torch.no_grad():
            hidden_TH = completion_hidden(exact, [prompt], [list(completion.ids_T)])
            logprobs_TV = exact.causal_lm.lm_head(hidden_TH).float().log_softmax(-1).cpu().numpy()
        sampled_T = logprobs_TV[np.arange(len(completion.ids_T)), list(completion.ids_T)]
        gap_T = np.abs(np.asarray(completion.logprobs_T) - sampled_T)
        assert gap_T.max() < 0.25 and gap_T.mean() < 0.05


def gradient(device: str, dtype: str) -> tuple[float, np.ndarray]:
    """Loss and gradient of one batch; the teacher is another model, whose prompt begins with a hint."""
    config = resolve("tiny", {"control": True, "model": {"dtype": dtype}, "distillation": {"targets": "online"}})
    student, teacher = policy_on(device), policy_on(device, seed=1)
    encode = student.tokenizer.encode
    batch = [
        TrainingItem(encode(p), encode("hint " + p), encode(c), np.zeros(len(c), np.float32), np.ones(len(c), np.float32))
        for p, c in TEXTS
    ]
    result = objective(student, FixedTeacher(teacher), batch, config)
    result.loss_sum.backward()
    found = [p.grad.flatten() for p in student.model.parameters() if p.grad is not None]
    assert all(p.dtype == torch.float32 for p in found), "weights and their gradients stay float32 under autocast"
    return float(result.loss_sum.detach()), torch.cat(found).cpu().numpy()


@on_each_device
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_has_the_loss_and_direction_of_the_float32_step_on_a_cpu(device, dtype):
    loss, direction = gradient(device, dtype)
    expected, reference = gradient("cpu", "float32")
    tolerance, cosine = (1e-3, 0.9999) if dtype == "float32" else (0.05, 0.98)
    assert loss == pytest.approx(expected, rel=tolerance)
    assert direction @ reference / np.linalg.norm(direction) / np.linalg.norm(reference) > cosine
