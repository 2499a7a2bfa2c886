"""pytest tests/core/training/test_importance.py — stale rollouts: ratio, clip, temperatures, metrics, maximal age."""

import math

import numpy as np
import pytest
import torch

from opsd_core.config import RolloutConfig, resolve
from opsd_core.errors import TrainingError
from opsd_core.models.forward import completion_hidden
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling, rollout_of
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.importance import (
    check_staleness,
    correction_metrics,
    importance_ratio,
    old_logprobs,
    old_temperature,
    sampled_logprobs,
)
from opsd_core.training.optim import build_optimizer
from opsd_core.training.trainer import TrainingItem, objective, train_step
from tests.core.small import small_policy

PROMPTS = ("12+34=", "abc", "what is 7 ?")


def sample(policy, config: RolloutConfig):
    prompts = [policy.tokenizer.encode(text) for text in PROMPTS]
    sampling = Sampling(config.temperature, config.top_p, config.top_k, max_completion_length=8, record_top_k=4)
    completions = generate(policy, prompts, [1, 2, 3], sampling, 4)
    return [rollout_of((f"id{i}", 0), i, p, c, "") for i, (p, c) in enumerate(zip(prompts, completions, strict=True))]


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 0.7}, {"temperature": 1.3}, {"top_p": 0.8}, {"temperature": 0.7, "top_k": 3}],
    ids=str,
)
def test_the_same_weights_give_ratio_one_at_any_sampling_setting(sampling):
    policy, config = small_policy(0), RolloutConfig(**sampling)
    rollouts = sample(policy, config)
    completions = [r.completion_ids for r in rollouts]
    with torch.no_grad():
        hidden = completion_hidden(policy, [r.prompt_ids for r in rollouts], completions)
    tokens = torch.tensor([token for ids in completions for token in ids])
    old = torch.from_numpy(np.concatenate([old_logprobs(r, config) for r in rollouts]))
    now = sampled_logprobs(hidden, policy.head, tokens, old_temperature(config))
    assert torch.allclose(importance_ratio(now, old, 2.0), torch.ones(len(tokens)), atol=1e-4)
    truncated = "top_p" in sampling or "top_k" in sampling
    assert old_temperature(config) == (1.0 if truncated else config.temperature)


def test_ratio_is_exact_for_temperature_sampling():
    """pi'(y) / pi(y) at the sampling temperature .5, computed from whole softmaxes."""
    old, new, config = small_policy(0), small_policy(1), RolloutConfig(temperature=0.5)
    (rollout, *_) = sample(old, config)
    tokens = torch.tensor(rollout.completion_ids)

    def whole(policy):
        with torch.no_grad():
            hidden = completion_hidden(policy, [rollout.prompt_ids], [rollout.completion_ids])
            logits = policy.causal_lm.lm_head(hidden)
        return hidden, torch.softmax(logits / 0.5, -1).gather(1, tokens[:, None])[:, 0]

    hidden, new_probs = whole(new)
    wanted = (new_probs / whole(old)[1]).clamp(max=1000.0)
    now = sampled_logprobs(hidden, new.head, tokens, 0.5)
    ratio = importance_ratio(now, torch.from_numpy(old_logprobs(rollout, config)), 1000.0)
    assert torch.allclose(ratio, wanted, rtol=1e-3)


def test_ratio_is_clipped_and_carries_no_gradient():
    """log-ratios 0, log 1.5, log 8 and -30 (clamped to -20)."""
    now = torch.tensor([-1.0, -1.0, -1.0, -31.0], requires_grad=True)
    old = torch.tensor([-1.0, -1.0 - math.log(1.5), -1.0 - math.log(8), -1.0])
    ratio = importance_ratio(now, old, 2.0)
    assert ratio.tolist() == pytest.approx([1.0, 1.5, 2.0, math.exp(-20)])
    assert not ratio.requires_grad


def test_metrics_by_hand():
    """r = 1, 2, 4 clipped at 3 -> 1, 2, 3: mean 2, ess 2^2 / (14/3) = 6/7; kl = -(0 + log 2 + log 4)/3 = -log 2."""
    now, old = torch.tensor([0.0, math.log(2), math.log(4)]) - 3, torch.full((3,), -3.0)
    metrics = correction_metrics(now, old, 3.0)
    assert metrics["rollout_corr/rollout_is_mean"] == pytest.approx(2)
    assert metrics["rollout_corr/rollout_is_eff_sample_size"] == pytest.approx(6 / 7)
    assert metrics["rollout_corr/kl"] == pytest.approx(-math.log(2), abs=1e-6)
    assert metrics["rollout_corr/k3_kl"] == pytest.approx((1 + 2 + 4) / 3 - 1 - math.log(2), abs=1e-6)
    assert metrics["rollout_corr/rollout_is_ratio_fraction_high"] == pytest.approx(1 / 3)


def test_ratios_multiply_the_tokens_loss_and_not_the_normaliser():
    policy, teacher = small_policy(0), FixedTeacher(small_policy(1))
    base = {"control": True, "distillation": {"targets": "online", "bound": "none"}, "rollout": {"max_completion_length": 8}}
    plain = resolve("tiny", base)
    corrected = resolve("tiny", base, {"token_weights": {"importance_correction": True, "importance_clip": 2.0}})
    rollouts = sample(policy, plain.rollout)

    def items(shift):
        ones = [np.ones(len(r.completion_ids), np.float32) for r in rollouts]
        return [
            TrainingItem(r.prompt_ids, r.prompt_ids, r.completion_ids, r.logprobs_T + shift, one)
            for r, one in zip(rollouts, ones, strict=True)
        ]

    whole = float(objective(policy, teacher, items(0.0), plain).loss_sum.detach())
    fresh = float(objective(policy, teacher, items(0.0), corrected).loss_sum.detach())
    assert fresh == pytest.approx(whole, rel=1e-4)
    for shift, ratio in ((-math.log(1.5), 1.5), (math.log(4), 0.25), (-math.log(50), 2.0)):
        result = objective(policy, teacher, items(shift), corrected)
        assert float(result.loss_sum.detach()) == pytest.approx(ratio * whole, rel=1e-3)
    optimizer = build_optimizer(policy.model.parameters(), corrected.optimizer)
    metrics = train_step(policy, teacher, items(math.log(4)), optimizer, corrected, 0)
    num_tokens = sum(len(r.completion_ids) for r in rollouts)
    assert metrics["distillation/loss"] == pytest.approx(0.25 * whole / num_tokens, rel=1e-3)
    assert metrics["rollout_corr/rollout_is_mean"] == pytest.approx(0.25, rel=1e-3)
    assert metrics["tokens/trained"] == metrics["tokens/weight"] == num_tokens


def test_too_old_rollouts_are_refused_with_both_ages():
    check_staleness([3, 2], 3, max_staleness=1)
    with pytest.raises(TrainingError, match=r"iteration 1 .*iteration 3: staleness 2, .*max_staleness=1"):
        check_staleness([3, 1], 3, max_staleness=1)
    with pytest.raises(TrainingError, match="staleness -1"):
        check_staleness([4], 3, max_staleness=1)
