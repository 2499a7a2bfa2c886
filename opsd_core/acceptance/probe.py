"""What a loaded model is tested with: a few ragged sequences, and the model's own plain logits along them.

B = sequences, T = tokens of a completion, V = vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opsd_core.errors import ModelError
from opsd_core.models.forward import own_logits
from opsd_core.models.paths import longest_window
from opsd_core.models.policy import Policy

_SHARED, _MAX_SHARED = 24, 640
"""Tokens of the common beginning where there is no window, and at most: a longer window is not tested but trusted."""
_OWN_TOKENS, _COMPLETIONS = (1, 9, 3, 6), (3, 5, 2, 4)

_TOKEN = ("token_id", "token_index")
"""How settings that name a token end."""


@dataclass(frozen=True)
class Probe:
    """Prompts of several lengths that begin alike, one that does not, and completions of them."""

    prompts: tuple[tuple[int, ...], ...]
    completions: tuple[tuple[int, ...], ...]


def make_probe(policy: Policy, seed: int = 0) -> Probe:
    """Random text tokens; the common beginning is longer than the model's window where that takes seconds."""
    ids = _text_tokens(policy)
    generator = torch.Generator().manual_seed(seed)
    window = longest_window(policy.causal_lm.config)
    longest = policy.max_positions // 2 - max(_OWN_TOKENS) - max(_COMPLETIONS) - 8
    shared = max(1, min(max(_SHARED, window + 8), _MAX_SHARED, longest))

    def draw(length: int) -> tuple[int, ...]:
        return tuple(ids[index] for index in torch.randint(len(ids), (length,), generator=generator).tolist())

    beginning = draw(shared)
    prompts = (*(beginning + draw(length) for length in _OWN_TOKENS), draw(max(2, shared // 3)))
    return Probe(prompts, (*(draw(length) for length in _COMPLETIONS), draw(3)))


def plain_logprobs(policy: Policy, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """log p (T, V) at the completion's positions: one sequence, one forward pass, nothing cached, padded or masked."""
    ids_1P = torch.tensor([[*prompt, *completion]], device=policy.device)
    logits_PV = own_logits(policy, ids_1P)[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits_PV, dim=-1)


def _text_tokens(policy: Policy) -> list[int]:
    """Tokens that stand for text: neither special nor a placeholder of an image or a sound."""
    config = policy.causal_lm.config
    text = config.get_text_config(decoder=True)
    barred = set(policy.tokenizer.all_special_ids) | set(policy.tokenizer.added_tokens_decoder)
    for part in (config, text):
        barred |= {value for name, value in vars(part).items() if name.endswith(_TOKEN) and type(value) is int}
    size = min(len(policy.tokenizer), policy.causal_lm.get_input_embeddings().weight.shape[0])
    if not (ids := [token for token in range(size) if token not in barred]):
        raise ModelError(
            f"the tokenizer of this model has {len(policy.tokenizer)} tokens, and none of them is text that its "
            f"{size} embeddings know. Check that model.source holds the tokenizer of these weights."
        )
    return ids
