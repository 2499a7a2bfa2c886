"""pytest tests/core/training/test_bites.py — how many tokens and completions a setting altered in a step."""

import numpy as np
import pytest
import torch

from opsd_core.config import resolve
from opsd_core.objective import ObjectiveResult
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.bites import bitten
from opsd_core.training.items import TrainingItem
from opsd_core.training.optim import build_optimizer
from opsd_core.training.trainer import train_step
from tests.core.small import small_policy
from tests.core.training.test_trainer import config, items


def item(weights, old=None):
    size = len(weights)
    logprobs = np.zeros(size, np.float32) if old is None else np.array(old, np.float32)
    return TrainingItem([1], [1], list(range(3, 3 + size)), logprobs, np.array(weights, np.float32))


def result(before, after):
    zeros = torch.zeros(len(before))
    return ObjectiveResult(zeros.sum(), torch.tensor(before), torch.tensor(after), zeros, zeros, zeros, zeros)


def test_shares_by_hand():
    """Two completions of 3 and 1 tokens: the bound halves token 1 and a negative value, token 2 does not count."""
    batch = [item([1.0, 0.0, 1.0], [0.0, 0.0, -3.0]), item([1.0])]
    found = bitten(
        batch, [result([2.0, 5.0, -4.0], [1.0, 1.0, -1.0]), result([0.5], [0.5])], torch.tensor([False, False, True, False]),
        torch.zeros(4), resolve("tiny", {"token_weights": {"importance_correction": True}}),
    )  # fmt: skip
    assert found == {
        "bite/bound_tokens": 0.5, "bite/bound_completions": 0.5, "bite/weights_tokens": 0.25,
        "bite/weights_completions": 0.5, "bite/stop_tokens": 0.25, "bite/stop_completions": 0.5,
        "bite/importance_tokens": 0.25, "bite/importance_completions": 0.5,
    }  # fmt: skip


def test_a_factor_of_the_loss_is_no_bite_of_the_bound():
    settings = resolve("tiny", {"distillation": {"temperature": 2.0, "scale_by_temperature_squared": True}})
    found = bitten([item([1.0, 1.0])], [result([1.0, 2.0], [4.0, 4.0])], torch.tensor([False, True]), None, settings)
    assert found["bite/bound_tokens"] == 0.5 and "bite/importance_tokens" not in found


@pytest.mark.parametrize(("threshold", "share"), [(1e6, 0.0), (1e-6, 1.0)])
def test_a_step_says_how_often_its_bound_bites(threshold, share):
    student = small_policy(0)
    settings = config(distillation={"targets": "online", "bound": "token_reweight", "bound_threshold": threshold})
    optimizer = build_optimizer(student.model.parameters(), settings.optimizer)
    metrics = train_step(student, FixedTeacher(small_policy(1)), items(student), optimizer, settings, 0)
    assert metrics["bite/bound_tokens"] == share == metrics["bite/bound_completions"]
