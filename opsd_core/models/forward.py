"""Ragged sequences through the model: hidden states of the rows that predict the completion.

B = sequences, P = padded length, N = completion tokens of all sequences, H = hidden size
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from opsd_core.models.policy import Policy

_MIN_SHARED_PREFIX = 4
"""Shared prompt tokens from which computing them once pays for the extra forward pass."""


def microbatches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group sequences of similar length so that rows x longest <= max_tokens (a longer one stands alone)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups and lengths[index] * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def completion_hidden(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    noise: Callable[[int, int], Tensor] | None = None,
) -> Tensor:
    """Hidden states (N, H) whose logits predict the completion tokens, sequence after sequence.

    The row that predicts the first completion token is the last row of the *prompt*: for a prompt of p tokens and a
    completion of c tokens these are rows p-1 .. p-1+c-1. Padding is on the right, so causal attention never sees it and
    needs no mask; a sequence's rows are the same in any batch. Tokens that all prompts begin with (system message,
    template) are computed once; gradients through them add up over the batch, as they would row by row.

    `noise(row, length)` (length, H) is added to the embeddings of that sequence; then nothing is shared.
    """
    shared = 0 if noise else shared_prefix(prompts)
    decoder, device = policy.causal_lm.get_decoder(), policy.device
    cache = None
    if shared:
        cache = DynamicCache(config=policy.causal_lm.config)
        prefix_1P = torch.tensor([list(prompts[0][:shared])], device=device)
        decoder(input_ids=prefix_1P, past_key_values=cache, use_cache=True)
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
    hidden_BPH = decoder(use_cache=bool(shared), **options).last_hidden_state
    return hidden_BPH[torch.tensor(rows, device=device), torch.tensor(columns, device=device)]


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
    """Largest difference between the model's own logits and head(hidden); models that scale logits elsewhere show it."""
    ids = torch.arange(1, 9, device=policy.device)[None] % policy.causal_lm.config.vocab_size
    wanted = policy.causal_lm(input_ids=ids, use_cache=False).logits.float()
    head = policy.head
    hidden = policy.causal_lm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    logits = torch.nn.functional.linear(hidden, head.weight_VH, head.bias_V).float()
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return float((logits - wanted).abs().max())
