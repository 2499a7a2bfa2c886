"""pytest tests/core/rollout/test_recorded.py — what was recorded is what the model gives the same tokens alone."""

from dataclasses import replace

import pytest

from opsd_core.config import resolve
from opsd_core.data import addition_examples
from opsd_core.errors import ModelError
from opsd_core.rollout.recorded import recorded_error
from opsd_core.rollout.sample import sample_rollouts
from tests.core.small import small_policy


@pytest.fixture(scope="module")
def sampled():
    policy = small_policy()
    config = resolve("tiny", {"rollout": {"max_completion_length": 6, "temperature": 0.7}})
    return policy, sample_rollouts(policy, addition_examples(9), 0, config), config


def test_sampled_and_recomputed_agree(sampled):
    policy, rollouts, _ = sampled
    assert recorded_error(policy, rollouts) < 1e-5


def test_parts_of_a_shard_are_sampled_as_in_the_whole(sampled):
    policy, rollouts, config = sampled
    examples = addition_examples(9)
    apart = [r for part in (examples[::2], examples[1::2]) for r in sample_rollouts(policy, part, 0, config)]
    whole = {r.key: r.completion_ids for r in rollouts}
    assert {r.key: r.completion_ids for r in apart} == whole


def test_records_of_other_weights_or_shifted_rows_are_refused(sampled):
    policy, rollouts, _ = sampled
    with pytest.raises(ModelError, match=r"off by .* nats per token"):
        recorded_error(small_policy(seed=1), rollouts)
    shifted = [replace(r, logprobs_T=r.logprobs_T[::-1]) for r in rollouts]
    with pytest.raises(ModelError):
        recorded_error(policy, shifted)


def test_records_that_are_not_finite_are_refused(sampled):
    policy, rollouts, _ = sampled
    with pytest.raises(ModelError):
        recorded_error(policy, [replace(r, logprobs_T=r.logprobs_T * float("nan")) for r in rollouts])


def test_references_were_not_sampled(sampled):
    policy, rollouts, _ = sampled
    assert recorded_error(policy, [replace(r, source="reference") for r in rollouts]) == 0.0
