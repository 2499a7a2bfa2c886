"""Reference completions: the data set's own text in place of the policy's sample.

    y = reference text + end-of-sequence   with probability 1 - lambda per prompt, lambda = rollout.on_policy_fraction
    y ~ pi(. | x)                          otherwise

lambda = 0 with divergence=cross_entropy is supervised fine-tuning; with a teacher's divergence lambda < 1 is the mixture of
GKD (arXiv:2306.13649). A prompt has one reference completion, whatever rollout.group_size is.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from opsd_core.config import CampaignConfig
from opsd_core.config.rules.teacher import generated_source
from opsd_core.errors import DataError
from opsd_core.models.chat import turn_end
from opsd_core.models.plain_text import plain_ids
from opsd_core.models.policy import Policy
from opsd_core.prompts.builder import example_variables, render
from opsd_core.records.examples import Example


def reference_template(config: CampaignConfig) -> str:
    """The configured template, or the solution where the data set has one, else the answer."""
    has_solution = bool(config.data.columns.solution) and not generated_source(config)
    return config.rollout.reference_completion or ("{{ solution }}" if has_solution else "{{ answer }}")


def reference_text(example: Example, config: CampaignConfig) -> str:
    """What a right completion of this item looks like."""
    return render("rollout.reference_completion", reference_template(config), example_variables(example))


def reference_ids(
    example: Example, config: CampaignConfig, tokenizer: PreTrainedTokenizerBase, eos_id: int
) -> list[int]:
    """Token ids of the reference text and an end-of-sequence token."""
    return [*plain_ids(tokenizer, reference_text(example, config)), eos_id]


def end_token(policy: Policy) -> int:
    """The token that ends a reference: what the chat template ends a turn with, else the tokenizer's, else the model's first."""
    for token in (turn_end(policy.tokenizer), policy.tokenizer.eos_token_id):
        if token is not None:
            return token
    return policy.eos_ids[0]


def fitting_references(
    examples: Sequence[Example], config: CampaignConfig, tokenizer: PreTrainedTokenizerBase, limit: int
) -> tuple[list[Example], list[str]]:
    """Examples whose reference completion has at most `limit` tokens, and the ids of the others.

    DataError with their number when texts are missing, or when some are too long and prompts.overflow=error.
    """
    texts = [reference_text(example, config) for example in examples]
    if missing := [example.id for example, text in zip(examples, texts, strict=True) if not text.strip()]:
        raise DataError(
            f"{len(missing)} of {len(examples)} items have no reference text (the first: {missing[0]}), which "
            f"{reference_template(config)!r} makes of an item. References are used because "
            f"rollout.on_policy_fraction or distillation.gold_share asks for them: fill data.columns.solution or .answer, or "
            "set rollout.reference_completion."
        )
    lengths = [len(plain_ids(tokenizer, text)) + 1 for text in texts]
    too_long = [example.id for example, length in zip(examples, lengths, strict=True) if length > limit]
    if too_long and config.prompts.overflow == "error":
        raise DataError(
            f"{len(too_long)} of {len(examples)} items have a reference completion of more than "
            f"rollout.max_completion_length={limit} tokens, end-of-sequence included (the longest has {max(lengths)}; the "
            f"first is {too_long[0]}). Nothing is cut; raise the limit or set prompts.overflow=drop."
        )
    return [example for example in examples if example.id not in set(too_long)], too_long
