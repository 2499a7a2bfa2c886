"""Ragged sequences through the model: hidden states of the rows that predict the completion.

B = sequences, P = padded length, N = completion tokens of all sequences, H = hidden size
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from opsd_core.errors import ModelError
from opsd_core.models.checkpointing import checkpoints
from opsd_core.models.paths import takes_use_cache
from opsd_core.models.policy import Policy
from opsd_core.objective.types import Head

Noise = Callable[[int, int], Tensor]
"""(row, length) -> (length, H), added to the embeddings of that sequence."""
_MIN_SHARED_PREFIX = 4
"""Shared prompt tokens from which computing them once pays for the extra forward pass."""


def microbatches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group sequences of similar length so that rows x longest <= max_tokens (a longer one stands alone)."""
    groups: list[list[int]] = []
    for index in np.argsort(np.asarray(lengths, np.int64), kind="stable").tolist():
        if groups and lengths[index] * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def completion_hidden(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    noise: Noise | None = None,
) -> Tensor:
    """Hidden states (N, H) whose logits predict the completion tokens, sequence after sequence.

    The row that predicts the first completion token is the last row of the *prompt*: for a prompt of p tokens and a
    completion of c tokens these are rows p-1 .. p-1+c-1. Padding is on the right, so causal attention never sees it and
    needs no mask; a sequence's rows are the same in any batch. Tokens that all prompts begin with (system message,
    template) are computed once; gradients through them add up over the batch, as they would row by row.

    `noise(row, length)` (length, H) is added to the embeddings of that sequence; then nothing is shared. `policy.paths` says
    what of this holds for the model: without "shared" every row is computed whole, with "alone" one after another.
    """
    paths = policy.paths
    if paths.scoring == "alone":
        parts = [
            _rows(policy, [prompt], [completion], 0, partial(_of_row, noise, row) if noise else None)
            for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        return torch.cat(parts)
    shares = paths.scoring == "shared" and not noise and not checkpoints(policy.causal_lm)
    return _rows(policy, prompts, completions, shared_prefix(prompts) if shares else 0, noise)


def _of_row(noise: Noise, row: int, _: int, length: int) -> Tensor:
    return noise(row, length)


def _rows(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    shared: int,
    noise: Noise | None,
) -> Tensor:
    """The hidden states of all rows in one batch, after the prompts' first `shared` tokens, which are computed once."""
    device, cache = policy.device, None
    if shared:
        cache = DynamicCache(config=policy.causal_lm.config)
        prefix_1P = torch.tensor([list(prompts[0][:shared])], device=device)
        last_hidden(policy, input_ids=prefix_1P, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(prompts))
    width = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True)) - 1
    ids_BP = torch.zeros(len(prompts), width - shared, dtype=torch.long)
    rows, columns = [], []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        # The last completion token predicts nothing that is scored, so it is not fed.
        tokens = [*prompt[shared:], *completion][:-1]
        ids_BP[row, : len(tokens)] = torch.tensor(tokens)
        first = len(prompt) - 1 - shared
        rows.extend([row] * len(completion))
        columns.extend(range(first, first + len(completion)))
    options = {"past_key_values": cache} if shared else {}
    if noise:
        embedded_BPH = policy.causal_lm.get_input_embeddings()(ids_BP.to(device))
        lengths = [len(prompt) + len(completion) - 1 for prompt, completion in zip(prompts, completions, strict=True)]
        noise_BPH = pad_sequence([noise(row, length) for row, length in enumerate(lengths)], batch_first=True)
        options["inputs_embeds"] = embedded_BPH + noise_BPH.to(embedded_BPH)
    else:
        options["input_ids"] = ids_BP.to(device)
    hidden_BPH = last_hidden(policy, use_cache=bool(shared), **options)
    return hidden_BPH[torch.tensor(rows, device=device), torch.tensor(columns, device=device)]


class _ReachedError(Exception):
    """The model has come to its output projection."""


def last_hidden(policy: Policy, *, use_cache: bool, **options: Any) -> Tensor:
    """What the model's output projection reads (B, P, H), caught in front of it, whatever the model does before."""
    model = policy.causal_lm
    if use_cache or takes_use_cache(model):
        options["use_cache"] = use_cache
    found: list[Tensor] = []

    def reach(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])
        raise _ReachedError

    handle = output_projection(model).register_forward_pre_hook(reach)
    try:
        model(**options)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    if not found:
        raise ModelError(
            f"{type(model).__name__} computes its logits without calling its own output projection, so there are no hidden "
            "states to distil from. Choose another model.source."
        )
    return found[0]


def output_projection(model: PreTrainedModel) -> torch.nn.Module:
    """The layer from hidden states to the vocabulary. ModelError when the model has none."""
    if (output := model.get_output_embeddings()) is None or getattr(output, "weight", None) is None:
        raise ModelError(
            f"{type(model).__name__} has no single output projection to the vocabulary, which the objective needs. "
            "Choose another model.source."
        )
    return output


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all prompts share, at least one less than the shortest; 0 where it does not pay."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return length if length >= _MIN_SHARED_PREFIX else 0


@torch.inference_mode()
def check_head(policy: Policy) -> float:
    """Largest difference between the model's own logits and head(hidden); models that change logits elsewhere show it."""
    vocabulary = len(policy.head.weight_VH)
    ids = torch.arange(1, 9, device=policy.device)[None] % vocabulary
    wanted = own_logits(policy, ids)
    return float((head_logits(last_hidden(policy, input_ids=ids, use_cache=False), policy.head) - wanted).abs().max())


def own_logits(policy: Policy, ids_BP: Tensor) -> Tensor:
    """The model's logits (B, P, V) in float32, from one forward pass without cache, padding or mask."""
    options = {"use_cache": False} if takes_use_cache(policy.causal_lm) else {}
    return policy.causal_lm(input_ids=ids_BP, **options).logits.float()


def head_logits(hidden: Tensor, head: Head) -> Tensor:
    """The head's logits in float32: projected in the weights' dtype as the model does, scaled and capped after."""
    weight_VH = head.weight_VH
    logits = functional.linear(hidden.to(weight_VH.dtype), weight_VH, head.bias_V).float() * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
