"""How well a policy predicts given text: the mean over a text's tokens of log p(token | what stands before it), in nats.

exp(-mean) is the perplexity. Log-probabilities are taken in float32 whatever the weights' type, and added up in float64.

N = tokens of all continuations, V = vocabulary
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from opsd_core.errors import DataError
from opsd_core.models.forward import completion_hidden, microbatches
from opsd_core.models.plain_text import plain_ids
from opsd_core.models.policy import Policy
from opsd_core.objective.plain import project
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome

Pair = tuple[list[int], list[int]]
"""Token ids of what is given, and of what is predicted."""


def text_outcomes(
    policy: Policy, examples: Sequence[Example], builder: PromptBuilder
) -> list[ItemOutcome]:
    """One outcome of mode `given` per item; its score is the mean log-likelihood per token of the item's text.

    The text is the solution, else the answer, after the student's prompt; of an item with neither it is the question, as plain
    text from its beginning. DataError for a text of fewer than two tokens.
    """
    pairs = text_pairs(policy.tokenizer, examples, builder)
    values = mean_of_pairs(policy, pairs)
    return [
        ItemOutcome(example.id, "given", 0, False, value, None, len(pair[1]), False, 1.0, 0.0, "")
        for example, pair, value in zip(examples, pairs, values, strict=True)
    ]


def text_pairs(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], builder: PromptBuilder) -> list[Pair]:
    """What is given and what is predicted of every item, as `text_outcomes` says."""
    answered = [example for example in examples if example.solution or example.answer]
    prompts = iter(builder.all_student_ids(answered))
    pairs = []
    for example in examples:
        if text := example.solution or example.answer:
            given, predicted = next(prompts), plain_ids(tokenizer, text)
        else:
            ids = _beginning(tokenizer) + plain_ids(tokenizer, example.question)
            given, predicted = ids[:1], ids[1:]
        if not predicted:
            raise DataError(f"item {example.id} ({example.question!r:.80}) is a text of one token: there is nothing to predict.")
        pairs.append((given, predicted))
    return pairs


def mean_loglikelihoods(policy: Policy, items: Sequence[Example]) -> list[float]:
    """Of every item's answer after its question, as they stand: no chat template."""
    tokenizer = policy.tokenizer
    prompts = [_beginning(tokenizer) + tokenizer.encode(item.question, add_special_tokens=False) for item in items]
    answers = [tokenizer.encode(item.answer, add_special_tokens=False) for item in items]
    return mean_of_pairs(policy, list(zip(prompts, answers, strict=True)))


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []


@torch.inference_mode()
def mean_of_pairs(policy: Policy, pairs: Sequence[Pair], max_tokens: int = 8192) -> list[float]:
    """The mean log-likelihood per predicted token of every pair; at most `max_tokens` are computed at once."""
    values = [0.0] * len(pairs)
    for rows in microbatches([len(given) + len(predicted) for given, predicted in pairs], max_tokens):
        hidden_NH = completion_hidden(policy, [pairs[row][0] for row in rows], [pairs[row][1] for row in rows])
        tokens_N = torch.tensor([token for row in rows for token in pairs[row][1]], device=hidden_NH.device)
        logprobs_N = project(hidden_NH, policy.head, 1.0).gather(1, tokens_N[:, None]).squeeze(1).double().cpu()
        start = 0
        for row in rows:
            stop = start + len(pairs[row][1])
            values[row] = float(logprobs_N[start:stop].mean())
            start = stop
    return values
