"""pytest tests/core/rollout/engines/test_mismatch.py — how far an engine's record is from transformers: measured, bounded."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from opsd_core.config import resolve
from opsd_core.data import addition_examples
from opsd_core.errors import ModelError
from opsd_core.rollout.engines.mismatch import Mismatch, check_mismatch, drawn_rows, recomputed
from opsd_core.rollout.sample import sample_rollouts
from tests.core.small import small_policy

COLUMNS = ("sampling_logprobs_T", "entropy_T", "tail_mass_T", "logprobs_T")


def config(**overrides):
    base = {
        "model": {"dtype": "float32", "device": "cpu"},
        "rollout": {"max_completion_length": 16, "record_top_k": 6},
        "execution": {"microbatch_tokens": 128},
    }
    return resolve("tiny", base, overrides)


@pytest.fixture(scope="module")
def policy():
    return small_policy(scale=7.0)


def told(rollouts):
    """What an engine tells of them: tokens, their log-probabilities, the largest ones."""
    absent = {"sampling_logprobs_T": np.nan, "entropy_T": np.nan}
    blank = [replace(r, **{name: np.full_like(r.logprobs_T, value) for name, value in absent.items()}) for r in rollouts]
    return [replace(r, tail_mass_T=1 - np.exp(r.topk_logprobs_TK.astype(np.float64)).sum(1).astype(np.float32)) for r in blank]


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.7}, {"temperature": 1.4, "top_k": 9, "top_p": 0.8}]
)
def test_what_an_engine_does_not_tell_is_found_again(policy, sampling):
    settings = config(rollout=sampling)
    rollouts = sample_rollouts(policy, addition_examples(10), 0, settings)
    whole, mismatch = recomputed(policy, told(rollouts), settings)
    for before, after in zip(rollouts, whole, strict=True):
        for name in COLUMNS:
            assert getattr(after, name) == pytest.approx(getattr(before, name), abs=2e-4), name
            assert getattr(after, name).dtype == np.float32
        tiny = before.tail_mass_T < 1e-5
        assert after.tail_mass_T[tiny] == pytest.approx(before.tail_mass_T[tiny], rel=1e-2), "not what rounding leaves"
        assert after.completion_ids == before.completion_ids
    assert mismatch.mean < 1e-5 and mismatch.effective == pytest.approx(1.0, abs=1e-6)
    assert mismatch.num_tokens == sum(len(r.completion_ids) for r in rollouts)


def test_of_a_share_the_rest_keeps_what_the_engine_told(policy):
    """Which completions are computed again follows from their keys; those and the others have the same kind of record."""
    rollouts = sample_rollouts(policy, addition_examples(20), 0, config())
    engine = [replace(r, sampling_logprobs_T=r.logprobs_T) for r in told(rollouts)]
    part = config(execution={"engine": "vllm", "checked_share": 0.2})
    whole, mismatch = recomputed(policy, engine, part)
    drawn = [rollouts[row] for row in drawn_rows(rollouts, range(len(rollouts)), 0.2)]
    assert len(drawn) == math.ceil(0.2 * len(rollouts)) and mismatch.num_tokens == sum(len(r.completion_ids) for r in drawn)
    for before, after in zip(rollouts, whole, strict=True):
        assert (after.entropy_T <= before.entropy_T + 1e-5).all() and (after.entropy_T >= 0).all()
        assert np.array_equal(after.sampling_logprobs_T, before.logprobs_T)
        events_TK = np.exp(np.column_stack([before.topk_logprobs_TK, np.log(before.tail_mass_T)]))
        assert after.entropy_T == pytest.approx(-(events_TK * np.log(events_TK)).sum(1), abs=1e-4)
    backwards = drawn_rows(rollouts[::-1], range(len(rollouts)), 0.2)
    assert {rollouts[::-1][row].key for row in backwards} == {r.key for r in drawn}
    assert drawn_rows(rollouts, [], 0.2) == [] and len(drawn_rows(rollouts, [3], 0.01)) == 1


def test_an_engine_that_is_off_is_measured(policy):
    """By a known amount on every token, alternately up and down."""
    settings = config()
    rollouts = sample_rollouts(policy, addition_examples(10), 0, settings)
    off = [replace(r, logprobs_T=r.logprobs_T + np.where(np.arange(len(r.logprobs_T)) % 2, 0.5, -0.5)) for r in rollouts]
    _, mismatch = recomputed(policy, off, settings)
    signs = np.concatenate([np.where(np.arange(len(r.logprobs_T)) % 2, 0.5, -0.5) for r in rollouts])
    ratio = np.exp(-signs)
    found = mismatch.metrics()
    assert found["engine/mismatch"] == pytest.approx(0.5, abs=1e-4) == found["engine/mismatch_max"]
    assert found["engine/mismatch_kl"] == pytest.approx(signs.mean(), abs=1e-4)
    assert found["engine/is_eff_sample_size"] == pytest.approx(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum()), abs=1e-4)


def test_shards_taken_together_are_as_if_they_were_one(policy):
    settings = config()
    rollouts = sample_rollouts(policy, addition_examples(9), 0, settings)
    off = [replace(r, logprobs_T=r.logprobs_T * 1.1) for r in rollouts]
    whole = recomputed(policy, off, settings)[1]
    stored = [recomputed(policy, part, settings)[1].to_json() for part in (off[:2], off[2:], [])]
    together = Mismatch.together(Mismatch(**part) for part in stored)
    assert together.metrics() == pytest.approx(whole.metrics(), abs=1e-6)
    assert Mismatch().metrics()["engine/is_eff_sample_size"] == 1.0 and Mismatch().mean == 0.0


def test_beyond_the_bound_a_shard_is_refused_by_field():
    off = Mismatch.of(np.array([-1.0, -2.0]), np.array([-1.1, -2.0]))
    said = r"engine-1\.0 \(execution\.engine=vllm\).*0\.05 nats.*execution\.max_mismatch=null.*importance_correction=true"
    with pytest.raises(ModelError, match=said):
        check_mismatch(off, torch.float32, config(execution={"engine": "vllm"}), "engine-1.0")
    check_mismatch(off, torch.bfloat16, config(execution={"engine": "vllm"}), "engine-1.0")
    check_mismatch(off, torch.float32, config(execution={"engine": "vllm", "max_mismatch": 0.06}), "engine-1.0")
    with pytest.raises(ModelError, match=r"execution\.max_mismatch=0\.04"):
        check_mismatch(off, torch.float32, config(execution={"engine": "vllm", "max_mismatch": 0.04}), "engine-1.0")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_record_that_is_no_number_is_refused_under_any_bound(value):
    off = Mismatch.together([Mismatch.of(np.array([-1.0]), np.array([-1.0])), Mismatch.of(np.array([value]), np.array([-2.0]))])
    with pytest.raises(ModelError, match="effective sample size"):
        check_mismatch(off, torch.float32, config(execution={"engine": "vllm", "max_mismatch": 10}), "engine-1.0")
