"""A policy of random weights in the shape of Qwen3-1.7B, made here: no hub is asked."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.gpu.sizes import Size
from opsd_core.models.policy import Policy
from opsd_core.models.tiny import tiny_tokenizer

SHAPE = {"hidden_size": 2048, "intermediate_size": 6144, "vocab_size": 151_936}
"""Of Qwen3-1.7B; layers and heads are the size's."""
_HEAD = 128


def random_policy(size: Size, dtype: torch.dtype) -> Policy:
    """The policy on the size's device. Its end token is as likely as any other, so that few rollouts end early."""
    large = size.device == "cuda"
    queries, keys = size.heads
    tokenizer = tiny_tokenizer()
    config = Qwen3Config(
        **(SHAPE if large else {"hidden_size": size.hidden, "intermediate_size": 2 * size.hidden, "vocab_size": size.vocabulary}),
        num_hidden_layers=size.layers,
        num_attention_heads=queries,
        num_key_value_heads=keys,
        head_dim=_HEAD if large else size.hidden // queries,
        max_position_embeddings=4 * size.length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    with torch.device(size.device):
        model = Qwen3ForCausalLM(config).to(dtype)
    return Policy(model.eval(), tokenizer)


def random_prompts(size: Size, policy: Policy, seed: int = 0) -> list[list[int]]:
    """Prompts of `length` tokens, none of which ends a text."""
    generator = torch.Generator().manual_seed(seed)
    lowest = max(policy.eos_ids, default=0) + 1
    shape = (size.batch, size.length)
    return torch.randint(lowest, policy.causal_lm.config.vocab_size, shape, generator=generator).tolist()
