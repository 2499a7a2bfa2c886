"""pytest tests/core/training/test_wear.py — how far the policy has moved from who sampled, and what follows."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from opsd_core.config import RolloutConfig, resolve
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling, rollout_of
from opsd_core.training.importance import correction_metrics
from opsd_core.training.wear import Wear, judge_age, judge_wear, measure_wear, spread
from tests.core.small import small_policy

PROMPTS = ("12+34=", "abc", "what is 7 ?", "9+9=", "x")


def config_of(**rollout):
    return resolve("tiny", {"rollout": {"refresh": "overlap"} | rollout, "execution": {"microbatch_tokens": 40}})


def sample(policy, config: RolloutConfig, top_k=5):
    prompts = [policy.tokenizer.encode(text) for text in PROMPTS]
    sampling = Sampling(config.temperature, config.top_p, config.top_k, max_completion_length=9, record_top_k=top_k)
    completions = generate(policy, prompts, list(range(len(prompts))), sampling, 8)
    return [rollout_of((f"id{i}", 0), i, p, c, "") for i, (p, c) in enumerate(zip(prompts, completions, strict=True))]


def moved(policy, by):
    other = copy.deepcopy(policy)
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=noise))
    return other


def by_hand(policy, rollouts, temperature, clip):
    """Overlap and sample size from whole softmaxes in float64, one sequence alone."""
    shares, ratios = [], []
    for r in rollouts:
        ids = torch.tensor([*r.prompt_ids, *r.completion_ids])
        logits_TV = policy.causal_lm(input_ids=ids[None]).logits[0, len(r.prompt_ids) - 1 : -1].double()
        top = np.argsort(-logits_TV.detach().numpy(), axis=1)[:, : r.topk_ids_TK.shape[1]]
        shares += [len(set(a) & set(b)) / len(b) for a, b in zip(r.topk_ids_TK.tolist(), top.tolist(), strict=True)]
        logprobs_TV = torch.log_softmax(logits_TV / temperature, -1).detach()
        now = logprobs_TV.gather(1, torch.tensor(r.completion_ids)[:, None]).squeeze(1).numpy()
        old = r.logprobs_T if temperature == 1.0 else r.sampling_logprobs_T
        ratios += np.minimum(np.exp(now - old.astype(np.float64)), clip).tolist()
    return np.mean(shares), np.mean(ratios) ** 2 / np.mean(np.square(ratios)), len(ratios)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.6}, {"temperature": 0.6, "top_p": 0.8}], ids=str)
def test_measured_is_what_whole_softmaxes_give_and_who_sampled_has_not_moved(sampling):
    policy, config = small_policy(0), config_of(**sampling)
    rollouts = sample(policy, config.rollout)
    still = measure_wear(policy, rollouts, config)
    assert still.overlap_top_k > 0.995 and still.effective_sample_size > 0.99999
    temperature = sampling.get("temperature", 1.0) if "top_p" not in sampling else 1.0
    for step in (0.02, 0.3):
        other = moved(policy, step)
        found = measure_wear(other, rollouts, config)
        expected = by_hand(other, rollouts, temperature, config.token_weights.importance_clip)
        assert found == pytest.approx(expected, abs=2e-3) and found.num_tokens == expected[2]
    assert measure_wear(moved(policy, 0.3), rollouts, config) < measure_wear(moved(policy, 0.02), rollouts, config) < still


def test_the_sample_size_is_the_one_that_training_reports():
    policy, config = small_policy(0), config_of()
    rollouts = sample(policy, config.rollout)
    wear = measure_wear(small_policy(1), rollouts, config)
    logprobs = torch.cat([torch.from_numpy(again.logprobs_T) for again in _scored_by(small_policy(1), rollouts)])
    old = torch.cat([torch.from_numpy(r.logprobs_T) for r in rollouts])
    metrics = correction_metrics(logprobs, old, config.token_weights.importance_clip)
    assert wear.effective_sample_size == pytest.approx(metrics["rollout_corr/rollout_is_eff_sample_size"], abs=1e-4)


def _scored_by(policy, rollouts):
    for r in rollouts:
        ids = torch.tensor([*r.prompt_ids, *r.completion_ids])
        logits_TV = policy.causal_lm(input_ids=ids[None]).logits[0, len(r.prompt_ids) - 1 : -1].float().detach()
        logprobs_T = torch.log_softmax(logits_TV, -1).gather(1, torch.tensor(r.completion_ids)[:, None]).squeeze(1)
        yield replace(r, logprobs_T=logprobs_T.numpy())


def test_references_do_not_count_and_nothing_sampled_is_not_worn():
    policy, config = small_policy(0), config_of()
    rollouts = sample(policy, config.rollout)
    texts = [replace(r, source="reference", sampling_logprobs_T=np.full(len(r.completion_ids), np.nan)) for r in rollouts]
    empty = replace(rollouts[0], completion_ids=[])
    assert measure_wear(small_policy(1), texts, config) == Wear(1.0, 1.0, 0)
    other = small_policy(1)
    assert measure_wear(other, [*texts, empty, *rollouts], config) == measure_wear(other, rollouts, config)
    assert all(math.isfinite(value) for value in measure_wear(small_policy(1, scale=30.0), rollouts, config))


def test_completions_that_are_looked_at_are_spread_over_all():
    assert spread(3, 5) == [0, 1, 2] and spread(0) == []
    assert spread(100, 5) == [0, 25, 50, 74, 99]
    assert len(set(spread(100_000))) == 256


def test_the_judgement_follows_from_age_settings_and_limits():
    config = resolve("tiny", {"rollout": {"refresh": "overlap"}, "token_weights": {"max_staleness": 3}})
    assert judge_age(config, 3, True) is None
    assert "4 iterations old" in judge_age(config, 4, True).reason and not judge_age(config, 4, True).keep
    assert "settings of rollout" in judge_age(config, 1, False).reason and not judge_age(config, 1, False).keep
    assert not judge_age(resolve("tiny"), 1, True).keep
    least = config.rollout.min_overlap, config.rollout.min_effective_sample_size
    assert judge_wear(config, Wear(*least, 10)).keep
    assert "rollout.min_overlap=" in judge_wear(config, Wear(least[0] - 0.01, 1.0, 10)).reason
    assert "min_effective_sample_size=" in judge_wear(config, Wear(1.0, least[1] - 0.01, 10)).reason
    initial = resolve("tiny", {"rollout": {"refresh": "initial"}, "token_weights": {"max_staleness": 5}})
    assert judge_age(initial, 5, True) is None and judge_wear(initial, Wear(0.0, 0.0, 10)).keep
