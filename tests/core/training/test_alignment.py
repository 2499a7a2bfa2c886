"""Rows that are scored in a batch are those of the sequence alone: what rounding moves passes, what is shifted does not."""

import pytest
import torch

from opsd_core.errors import TrainingError
from opsd_core.models.policy import Policy
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training import probes
from tests.core.small import small_policy
from tests.core.training.test_trainer import config, items

SETTINGS = config(distillation={"targets": "online"})


def sharp(dtype: torch.dtype) -> Policy:
    """A policy whose logits are as large as a real model's, so that bfloat16 rounds them as coarsely."""
    policy = small_policy(0)
    with torch.no_grad():
        policy.head.weight_VH.mul_(12)
    return Policy(policy.model.to(dtype), policy.tokenizer)


def probed(policy: Policy) -> dict[str, float]:
    return probes.run_probes(policy, FixedTeacher(policy), items(policy), [], SETTINGS)


def test_rounding_in_bfloat16_is_no_shift():
    found = probed(sharp(torch.bfloat16))
    assert found["alignment/max_abs_diff"] > 0.05 and found["alignment/mean_abs_diff"] < 0.1
    assert probed(sharp(torch.float32))["alignment/max_abs_diff"] < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shifted_row_is_refused_in_either_precision(dtype, monkeypatch):
    scored = probes.answer_logprobs
    monkeypatch.setattr(probes, "answer_logprobs", lambda *given: scored(*given).roll(1, 0))
    with pytest.raises(TrainingError, match=rf"differs by .* nats per token, where rounding in {str(dtype)[6:]} explains"):
        probed(sharp(dtype))
