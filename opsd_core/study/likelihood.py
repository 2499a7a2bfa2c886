"""How well a policy predicts given text.

N = tokens of all continuations, V = vocabulary
"""

from collections.abc import Sequence

import torch

from opsd_core.models.forward import completion_hidden, microbatches
from opsd_core.models.policy import Policy
from opsd_core.objective.plain import project
from opsd_core.records.examples import Example


@torch.inference_mode()
def mean_loglikelihoods(policy: Policy, items: Sequence[Example], max_tokens: int = 8192) -> list[float]:
    """Per item the mean over its answer's tokens of log p(token | question, tokens before), in nats; no chat template.

    exp(-mean) is the perplexity.
    """
    tokenizer = policy.tokenizer
    begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    prompts = [begin + tokenizer.encode(item.question, add_special_tokens=False) for item in items]
    answers = [tokenizer.encode(item.answer, add_special_tokens=False) for item in items]
    values = [0.0] * len(items)
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    for rows in microbatches(lengths, max_tokens):
        hidden_NH = completion_hidden(policy, [prompts[row] for row in rows], [answers[row] for row in rows])
        tokens_N = torch.tensor([token for row in rows for token in answers[row]], device=hidden_NH.device)
        logprobs_N = project(hidden_NH, policy.head, 1.0).gather(1, tokens_N[:, None]).squeeze(1).double().cpu()
        start = 0
        for row in rows:
            stop = start + len(answers[row])
            values[row] = float(logprobs_N[start:stop].mean())
            start = stop
    return values
