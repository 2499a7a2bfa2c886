"""Plain checks of a loaded model: what fails one is refused, whatever shortcuts are taken.

B = sequences, P = positions, V = vocabulary
"""

from collections.abc import Callable
from itertools import islice

import torch

from opsd_core.acceptance.probe import Probe, plain_logprobs
from opsd_core.errors import ModelError
from opsd_core.models.forward import completion_hidden, head_logits, last_hidden, own_logits
from opsd_core.models.policy import Policy

TOLERANCE = 1e-3
"""Nats: largest error of a log-probability in float32."""


def refuse(policy: Policy, reason: str) -> ModelError:
    """The error that says why this model is not used."""
    return ModelError(f"{type(policy.causal_lm).__name__} cannot be used: {reason} Choose another model.source.")


def largest(difference: torch.Tensor) -> float:
    """Infinite where a number is not finite: no comparison with it may pass."""
    return float(difference.abs().nan_to_num(nan=torch.inf).max())


def finite_weights(policy: Policy, probe: Probe) -> float:
    """No weight is nan or infinite."""
    for name, tensor in policy.causal_lm.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all():
            raise refuse(policy, f"its tensor {name} holds numbers that are not finite; the file is damaged or half written.")
    return 0.0


def finite_logits(policy: Policy, probe: Probe) -> float:
    """Log-probabilities of text are finite."""
    for prompt, completion in zip(probe.prompts, probe.completions, strict=True):
        tokens_T1 = torch.tensor(completion, device=policy.device)[:, None]
        if not torch.isfinite(plain_logprobs(policy, prompt, completion).gather(1, tokens_T1)).all():
            raise refuse(policy, f"its logits are not finite in {policy.causal_lm.dtype}. Try model.dtype=float32.")
    return 0.0


def same_answer_twice(policy: Policy, probe: Probe) -> float:
    """The same tokens give the same logits: neither dropout nor random hashing nor a state is left."""
    ids_1P = torch.tensor([probe.prompts[1]], device=policy.device)
    error = largest(own_logits(policy, ids_1P)[0, -1] - own_logits(policy, ids_1P)[0, -1])
    if error > TOLERANCE:
        raise refuse(policy, f"the same tokens give logits that differ by {error:.3g}: it draws random numbers.")
    return error


def reads_left_to_right(policy: Policy, probe: Probe) -> float:
    """Logits do not depend on what comes later."""
    worst = 0.0
    for prompt, completion in islice(zip(probe.prompts, probe.completions, strict=True), 2):
        tokens = [*prompt, *completion]
        whole_PV = torch.log_softmax(own_logits(policy, torch.tensor([tokens], device=policy.device))[0], dim=-1)
        for length in (len(prompt) // 2 + 1, len(prompt)):
            start_1P = torch.tensor([tokens[:length]], device=policy.device)
            start_V = torch.log_softmax(own_logits(policy, start_1P)[0, -1], dim=-1)
            worst = max(worst, largest((start_V - whole_PV[length - 1])[list(completion)]))
    if worst > TOLERANCE:
        raise refuse(policy, f"a token's logits change by {worst:.3g} with the tokens after it; it is no causal model.")
    return worst


def head_is_a_projection(policy: Policy, probe: Probe) -> float:
    """logits = cap(scale (hidden W^T + b)), which is all that the objective computes."""
    ids_1P = torch.tensor([probe.prompts[1]], device=policy.device)
    wanted, head = own_logits(policy, ids_1P), policy.head
    found = head_logits(last_hidden(policy, input_ids=ids_1P, use_cache=False), head)
    if found.shape != wanted.shape:
        raise refuse(policy, f"its head has {found.shape[-1]} rows but its logits {wanted.shape[-1]} entries.")
    error, size = largest(found - wanted), float(wanted.abs().max())
    if not error <= TOLERANCE * max(1.0, size / 20):
        raise refuse(
            policy,
            f"its logits differ by {error:.3g} from its output projection (scale {head.scale:g}, softcap {head.softcap}): it "
            "changes logits in a way that the objective does not know.",
        )
    return error


@torch.enable_grad()
def gradients_flow(policy: Policy, probe: Probe) -> float:
    """Hidden states of completions differentiate to the embeddings or adapters: finite and not 0."""
    embedding = policy.causal_lm.get_input_embeddings().weight
    trained = [leaf for leaf in (embedding, *policy.causal_lm.parameters()) if leaf.requires_grad]
    if not trained:
        return 0.0
    hidden_NH = completion_hidden(policy, probe.prompts[:2], probe.completions[:2])
    weights_H = torch.linspace(-1.0, 1.0, hidden_NH.shape[1], device=policy.device, dtype=hidden_NH.dtype)
    leaves = trained[:1] if trained[0] is embedding else trained
    gradients = torch.autograd.grad((hidden_NH * weights_H).sum(), leaves, allow_unused=True)
    size = max((float(gradient.abs().max()) for gradient in gradients if gradient is not None), default=0.0)
    if not 0.0 < size < torch.inf:
        raise refuse(policy, f"the largest gradient of what is trained is {size}: it cannot be trained.")
    return 0.0


CHECKS: dict[str, Callable[[Policy, Probe], float]] = {
    "finite_weights": finite_weights,
    "finite_logits": finite_logits,
    "same_answer_twice": same_answer_twice,
    "reads_left_to_right": reads_left_to_right,
    "head": head_is_a_projection,
}
"""Plain checks by name, in order: each returns its error or raises ModelError."""
