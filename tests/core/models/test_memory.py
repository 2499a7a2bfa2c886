"""pytest tests/core/models/test_memory.py — an estimate that follows the sizes, and what is switched on when it does not fit."""

import pytest

from opsd_core.config import resolve
from opsd_core.models.memory import free_bytes, memory_estimate, wants_checkpointing
from tests.core.small import small_policy

OVERHEAD = 600_000_000


def test_training_holds_weights_gradients_moments_a_copy_and_activations():
    policy, config = small_policy(), resolve("tiny", {"model": {"dtype": "float32"}})
    parameters = sum(p.numel() for p in policy.causal_lm.parameters())
    estimate = memory_estimate(policy, config, tokens=100)
    layer = 10 * 32 + 4 * 64
    assert estimate["distil"] == OVERHEAD + 4 * parameters + 12 * parameters + 4 * parameters + 4 * 100 * 2 * layer
    again = memory_estimate(policy, config, tokens=100, checkpointing=True)
    assert estimate["distil"] - again["distil"] == 4 * 100 * (2 * layer - 2 * 32 - layer)


def test_sampling_holds_weights_and_the_caches_of_a_batch():
    policy = small_policy()
    config = resolve("tiny", {"execution": {"rollout_batch_size": 7}, "prompts": {"max_prompt_length": 10}})
    parameters = sum(p.numel() for p in policy.causal_lm.parameters())
    per_token = 2 * 2 * 2 * 8  # keys and values, 2 layers, 2 heads of 8
    longest = 10 + config.rollout.max_completion_length
    assert memory_estimate(policy, config)["rollout"] == OVERHEAD + 4 * parameters + 7 * longest * per_token * 4


def test_adapters_need_gradients_and_moments_of_their_own_alone():
    policy = small_policy()
    full, adapters = resolve("tiny"), resolve("tiny", {"model": {"lora": {"rank": 1}}})
    assert memory_estimate(policy, adapters, tokens=1)["distil"] < memory_estimate(policy, full, tokens=1)["distil"]


@pytest.mark.parametrize("configured", [True, False])
def test_what_is_configured_is_done(configured):
    config = resolve("tiny", {"execution": {"gradient_checkpointing": configured}})
    assert wants_checkpointing(small_policy(), config, 1) is configured


def test_activations_that_do_not_fit_are_computed_again():
    policy, config = small_policy(), resolve("tiny")
    assert not wants_checkpointing(policy, config, 100)
    assert wants_checkpointing(policy, config, free_bytes(config))
