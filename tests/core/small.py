"""A random Llama of 30 k parameters with a character tokenizer: enough to test everything but learning."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from opsd_core.models.policy import Policy
from opsd_core.records.rollouts import Rollout

ALPHABET = "0123456789+=|abcdefghijklmnopqrstuvwxyz .?-"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def small_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; <eos> doubles as padding, as in many real models."""
    vocabulary = {token: index for index, token in enumerate(["<eos>", "<unk>", *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def small_policy(seed: int = 0, tied: bool = True, scale: float = 3.0, **shape: int) -> Policy:
    """A policy whose distributions are neither flat nor sharp. `shape`: other sizes, by the names of its configuration."""
    tokenizer = small_tokenizer()
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    config = LlamaConfig(
        **sizes | shape,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        attn_implementation="sdpa",
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return Policy(model.eval(), tokenizer)


def rollout_of(example_id: str, sample_index: int, text: str, prompt_ids=(), completion_ids=()) -> Rollout:
    """A rollout of a text, without what the policy recorded."""
    empty_T = np.zeros(len(completion_ids), np.float32)
    empty_TK = np.zeros((len(completion_ids), 1), np.float32)
    return Rollout(
        example_id=example_id,
        sample_index=sample_index,
        seed=0,
        prompt_ids=list(prompt_ids),
        completion_ids=list(completion_ids),
        completion_text=text,
        finish_reason="eos",
        sampling_logprobs_T=empty_T,
        logprobs_T=empty_T,
        topk_ids_TK=empty_TK,
        topk_logprobs_TK=empty_TK,
        tail_mass_T=empty_T,
        entropy_T=empty_T,
    )
