"""Gradient checkpointing: the same gradients, and activations that are gone between forward and backward."""

import pytest
import torch

from opsd_core.acceptance.compare import gradient_difference
from opsd_core.acceptance.families import tiny_policy
from opsd_core.acceptance.probe import make_probe
from opsd_core.config import LoraConfig
from opsd_core.errors import ModelError
from opsd_core.models.checkpointing import checkpoint_gradients, checkpoints
from opsd_core.models.forward import completion_hidden, shared_prefix
from opsd_core.models.policy import add_lora
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling


def gradients(policy, probe) -> tuple[dict, int]:
    """Of every trained weight, and the bytes of activations that were kept for them."""
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    policy.model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden_NH = completion_hidden(policy, probe.prompts, probe.completions)
    (hidden_NH * torch.linspace(-1, 1, hidden_NH.shape[1])).sum().backward()
    trained = {name: leaf.grad.clone() for name, leaf in policy.model.named_parameters() if leaf.grad is not None}
    weights = {leaf.data_ptr() for leaf in policy.model.parameters()}
    return trained, sum(size for pointer, size in kept.items() if pointer not in weights)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_5"])
@pytest.mark.parametrize("adapters", [False, True])
def test_gradients_are_the_same_and_activations_are_not_kept(name, adapters):
    def policy():
        made = tiny_policy(name)
        return add_lora(made, LoraConfig(rank=4), seed=0) if adapters else made

    plain, computed_again = policy(), checkpoint_gradients(policy())
    computed_again.model.eval()
    assert checkpoints(computed_again.causal_lm) and not checkpoints(plain.causal_lm)
    probe = make_probe(plain)
    (wanted, kept), (found, fewer) = gradients(plain, probe), gradients(computed_again, probe)
    assert found.keys() == wanted.keys() and found
    for key, gradient in wanted.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-5, rtol=1e-4)
    assert fewer < kept / 3
    assert gradient_difference(computed_again, probe) < 1e-3


def test_the_librarys_own_switch_does_not_lose_a_shared_beginning():
    """In training mode transformers drops the cache that holds the beginning: other hidden states, and no error."""
    plain, switched = tiny_policy("llama"), tiny_policy("llama")
    switched.model.gradient_checkpointing_enable()
    switched.model.train()
    prompts, completions = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 11]], [[12, 13], [14]]
    assert shared_prefix(prompts) >= 4
    wanted, found = (completion_hidden(policy, prompts, completions) for policy in (plain, switched))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert checkpoints(switched.causal_lm) and not checkpoints(plain.causal_lm)


def test_sampling_goes_on_as_before():
    prompts, sampling = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 10, 11]], Sampling(max_completion_length=5, record_top_k=4)
    policies = tiny_policy("llama"), checkpoint_gradients(tiny_policy("llama"))
    plain, other = (generate(policy, prompts, [0, 1], sampling, 2) for policy in policies)
    assert [(c.ids_T, c.logprobs_T) for c in plain] == [(c.ids_T, c.logprobs_T) for c in other]


def test_an_architecture_that_cannot_is_refused_with_the_field():
    with pytest.raises(ModelError, match=r"execution\.gradient_checkpointing=false"):
        checkpoint_gradients(tiny_policy("cpmant"))
