"""pytest tests/core/rollout/test_generation.py — batched sampling against the model's own one-by-one forward."""

import math

import numpy as np
import pytest
import torch

from opsd_core.errors import DataError
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Completion, Sampling, sample_and_record
from tests.core.small import small_policy

PROMPTS = ["12+34=", "a", "what is 7+8 ?", "12+35=", "12+3", "zzz zzz zzz zzz"]


@pytest.fixture(scope="module")
def policy():
    return small_policy()


def ids(policy, texts=PROMPTS):
    return [policy.tokenizer.encode(text) for text in texts]


def full_logprobs(policy, prompt, completion):
    with torch.inference_mode():
        logits = policy.model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].float()
    return torch.log_softmax(logits[len(prompt) - 1 : -1], -1)


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_recorded_distributions_are_the_models_own(policy, batch_size):
    """Left padding, shared prefixes and compaction must not shift or change a row."""
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=20, max_completion_length=12, record_top_k=5)
    completions = generate(policy, ids(policy), list(range(6)), sampling, batch_size)
    for prompt, completion in zip(ids(policy), completions, strict=True):
        logprobs = full_logprobs(policy, prompt, completion.ids_T)
        tokens = torch.tensor(completion.ids_T)
        assert np.allclose(completion.logprobs_T, logprobs.gather(1, tokens[:, None]).squeeze(1), atol=1e-4)
        top = logprobs.topk(5)
        assert np.allclose(np.stack(completion.topk_logprobs_TK), top.values, atol=1e-4)
        assert np.allclose(completion.tail_mass_T, 1 - top.values.exp().sum(-1), atol=1e-4)
        assert np.allclose(completion.entropy_T, -(logprobs.exp() * logprobs).sum(-1), atol=1e-4)


def test_sampling_logprob_is_of_the_filtered_tempered_distribution(policy):
    sampling = Sampling(temperature=0.5, top_k=3, max_completion_length=8)
    (completion,) = generate(policy, ids(policy, ["12+34="]), [5], sampling, 1)
    logprobs = full_logprobs(policy, ids(policy, ["12+34="])[0], completion.ids_T)
    for position, token in enumerate(completion.ids_T):
        top = (logprobs[position] / 0.5).topk(3)
        assert token in top.indices
        expected = torch.log_softmax(top.values, -1)[top.indices.tolist().index(token)]
        assert completion.sampling_logprobs_T[position] == pytest.approx(expected.item(), abs=1e-4)


def test_draws_depend_on_the_seed_alone_not_on_neighbours_or_batch(policy):
    sampling = Sampling(max_completion_length=10)
    together = generate(policy, ids(policy), list(range(6)), sampling, 6)
    alone = [generate(policy, [prompt], [seed], sampling, 1)[0] for seed, prompt in enumerate(ids(policy))]
    assert [c.ids_T for c in together] == [c.ids_T for c in alone]


def test_greedy_is_the_argmax(policy):
    (completion,) = generate(policy, ids(policy, ["a+b"]), [0], Sampling(temperature=0.0, max_completion_length=6), 4)
    logprobs = full_logprobs(policy, ids(policy, ["a+b"])[0], completion.ids_T)
    assert completion.ids_T == logprobs.argmax(-1).tolist()
    assert completion.sampling_logprobs_T == [0.0] * len(completion.ids_T)


def test_first_eos_ends_a_completion_and_is_kept_even_when_it_is_the_padding_token(policy):
    assert policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id
    completions = generate(
        policy, ids(policy) * 20, list(range(120)), Sampling(temperature=2.0, max_completion_length=30), 40
    )
    eos = policy.tokenizer.eos_token_id
    ended = [c for c in completions if c.finish_reason == "eos"]
    assert ended and len(ended) < len(completions)
    assert all(c.ids_T[-1] == eos and eos not in c.ids_T[:-1] for c in ended)
    assert all(eos not in c.ids_T and len(c.ids_T) == 30 for c in completions if c.finish_reason == "length")


def test_samples_follow_the_distribution(policy):
    """Frequencies of 4,000 first tokens against the exact probabilities: within 5 standard errors each."""
    prompt = ids(policy, ["12+34="])
    completions = generate(policy, prompt * 4000, list(range(4000)), Sampling(max_completion_length=1), 1000)
    counts = np.bincount([c.ids_T[0] for c in completions], minlength=len(policy.tokenizer))
    with torch.inference_mode():
        probabilities = torch.softmax(policy.model(input_ids=torch.tensor(prompt)).logits[0, -1].float(), -1).numpy()
    errors = np.sqrt(probabilities * (1 - probabilities) * 4000) + 1e-9
    assert (np.abs(counts - 4000 * probabilities) <= 5 * errors + 1).all()


def test_a_prompt_that_leaves_no_room_is_refused(policy):
    with pytest.raises(DataError, match=r"120 tokens plus rollout\.max_completion_length=20 exceeds.*128"):
        generate(policy, [[3] * 120], [0], Sampling(max_completion_length=20), 1)
    with pytest.raises(DataError, match="no tokens"):
        generate(policy, [[]], [0], Sampling(max_completion_length=2), 1)


def test_a_token_that_the_model_rules_out_leaves_the_entropy_finite():
    logits_BV = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])
    completion = Completion()
    columns = (torch.tensor([0.3]), Sampling(), [completion], torch.tensor([0]), torch.tensor([True]))
    sample_and_record(logits_BV, *columns)
    assert completion.entropy_T == pytest.approx([math.log(2)])
