"""How far a way of sampling or of scoring is from a plain forward pass over the same tokens."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig

from opsd_core.acceptance.probe import Probe, plain_logprobs
from opsd_core.models.forward import completion_hidden, head_logits
from opsd_core.models.policy import Policy
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling

_SAMPLING = Sampling(max_completion_length=6, record_top_k=4)
_ENDS = 1 << 18
"""Entries of the largest vocabularies."""
_PLACES = 3
"""Fewer than prompts, so that some join others that go on."""


@torch.inference_mode()
def sampling_error(policy: Policy, probe: Probe) -> Tensor:
    """Differences between log-probabilities recorded while sampling and plain ones of the same tokens, in nats."""
    prompts = [*probe.prompts, probe.prompts[1]]
    with _ending_early(policy.causal_lm.generation_config):
        completions = generate(policy, prompts, list(range(len(prompts))), _SAMPLING, _PLACES)
    differences = []
    for prompt, completion in zip(prompts, completions, strict=True):
        plain_TV = plain_logprobs(policy, prompt, completion.ids_T)
        plain_T = plain_TV.gather(1, torch.tensor(completion.ids_T, device=policy.device)[:, None])[:, 0].cpu()
        differences.append(plain_T - torch.tensor(completion.logprobs_T))
    return torch.cat(differences)


@contextmanager
def _ending_early(settings: GenerationConfig) -> Iterator[None]:
    """Every fourth token ends a completion, so that rows leave the batch and others take their places."""
    kept = settings.eos_token_id
    settings.eos_token_id = list(range(0, _ENDS, 4))
    try:
        yield
    finally:
        settings.eos_token_id = kept


@torch.inference_mode()
def scoring_error(policy: Policy, probe: Probe) -> Tensor:
    """Differences between log-probabilities from `completion_hidden` and plain ones, at the probe's tokens, in nats."""
    hidden_NH = completion_hidden(policy, probe.prompts, probe.completions)
    found_NV = torch.log_softmax(head_logits(hidden_NH, policy.head), dim=-1)
    plain_NV = torch.cat([plain_logprobs(policy, *pair) for pair in zip(probe.prompts, probe.completions, strict=True)])
    tokens_N1 = torch.tensor([[token] for ids in probe.completions for token in ids], device=policy.device)
    return (found_NV - plain_NV).gather(1, tokens_N1)[:, 0]
