"""How far batched sampling and training are from one sequence at a time: what acceptance promises, measured to the end.

B = sequences, T = tokens of a completion, V = vocabulary
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from opsd_core.acceptance.probe import Probe, plain_logprobs
from opsd_core.config import DistillationConfig
from opsd_core.models.forward import completion_hidden, own_logits
from opsd_core.models.policy import Policy
from opsd_core.objective import SampledTokens, distillation_loss
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Completion, Sampling, sample_and_record, uniform_draws


@torch.inference_mode()
def unbatched(policy: Policy, prompt: Sequence[int], seed: int, sampling: Sampling) -> Completion:
    """One completion, one forward pass over the whole sequence per token: no batch, no cache, no mask, no padding."""
    completion, ids = Completion(), list(prompt)
    draws_1T = uniform_draws([seed], sampling.max_completion_length)
    row, running = torch.tensor([0]), torch.tensor([True])
    for step in range(sampling.max_completion_length):
        logits_1V = own_logits(policy, torch.tensor([ids]))[:, -1]
        token = int(sample_and_record(logits_1V, draws_1T[:, step], sampling, [completion], row, running))
        ids.append(token)
        if token in policy.eos_ids:
            completion.finish_reason = "eos"
            break
    return completion


def sampling_difference(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sampling, batch_size: int) -> float:
    """Nats: largest difference of a log-probability between batched and unbatched sampling; infinite where a token differs."""
    worst = 0.0
    for seed, (prompt, found) in enumerate(
        zip(prompts, generate(policy, prompts, range(len(prompts)), sampling, batch_size), strict=True)
    ):
        wanted = unbatched(policy, prompt, seed, sampling)
        if (found.ids_T, found.finish_reason) != (wanted.ids_T, wanted.finish_reason):
            return float("inf")
        for name in ("logprobs_T", "entropy_T", "tail_mass_T"):
            pair = torch.tensor(getattr(found, name)), torch.tensor(getattr(wanted, name))
            worst = max(worst, float((pair[0] - pair[1]).abs().max()) if len(pair[0]) else 0.0)
    return worst


@torch.inference_mode()
def recorded_difference(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sampling, batch_size: int) -> float:
    """The same where rounding may choose another token: of what was drawn, against a plain forward pass over it.

    Greedy tokens must besides be as likely as the likeliest one.
    """
    worst = 0.0
    for prompt, found in zip(prompts, generate(policy, prompts, range(len(prompts)), sampling, batch_size), strict=True):
        plain_TV = plain_logprobs(policy, prompt, found.ids_T)
        plain_T = plain_TV.gather(1, torch.tensor(found.ids_T)[:, None])[:, 0]
        worst = max(worst, float((plain_T - torch.tensor(found.logprobs_T)).abs().max()))
        if sampling.temperature == 0.0:
            worst = max(worst, float((plain_TV.max(-1).values - plain_T).max()))
    return worst


def gradient_difference(policy: Policy, probe: Probe) -> float:
    """Relative difference between the objective's gradients and those of -sum log p from the model's own logits, row by row."""
    parameters = [parameter for parameter in policy.causal_lm.parameters() if parameter.requires_grad]
    tokens_N = torch.tensor([token for ids in probe.completions for token in ids])
    hidden_NH = completion_hidden(policy, probe.prompts, probe.completions)
    weights_N = torch.ones(len(tokens_N))
    config = DistillationConfig(divergence="cross_entropy")
    loss = distillation_loss(hidden_NH, policy.head, SampledTokens(), tokens_N, weights_N, config).loss_sum
    found = _gradient(loss, parameters)
    rows = zip(probe.prompts, probe.completions, strict=True)
    plain = sum(-plain_logprobs(policy, *row).gather(1, torch.tensor(row[1])[:, None]).sum() for row in rows)
    wanted = _gradient(plain, parameters)
    return float((found - wanted).norm() / wanted.norm())


def _gradient(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    return torch.cat([torch.zeros(leaf.numel()) if found is None else found.flatten().float() for leaf, found in pairs])


def ragged_prompts(seed: int = 1) -> list[list[int]]:
    """14 prompts of text tokens: two families with a beginning longer than a tiny model's window, others, one repeated."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(4, 98, (length,), generator=generator).tolist()

    one = draw(19)
    other = one[:12] + draw(7)
    prompts = [one + draw(length) for length in (3, 11, 1, 7, 20, 2)] + [other + draw(length) for length in (9, 1, 4, 3)]
    return [*prompts, draw(5), draw(26), prompts[1], prompts[1]]
