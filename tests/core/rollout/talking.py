"""Conversations of the small random model, which ends its turns often, with an environment that counts them."""

from pathlib import Path

from opsd_core.config import CampaignConfig, resolve
from opsd_core.models.policy import Policy
from tests.core.small import small_policy

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}|{% endif %}{% endfor %}"
)
COUNTS = """
def reply(messages):
    turns = sum(message["role"] == "assistant" for message in messages)
    return f"{turns}=", len(messages[-1]["content"]) % 4 == 3
"""
ENDS = 12
"""Letters that end a turn of the small model too."""


def talking_policy(seed: int = 0, **shape: int) -> Policy:
    """The small model with many end tokens."""
    policy = small_policy(seed, **shape)
    first = policy.tokenizer.convert_tokens_to_ids("a")
    policy.model.generation_config.eos_token_id = [policy.tokenizer.eos_token_id, *range(first, first + ENDS)]
    return policy


def talking_config(folder: Path, **sections: dict) -> CampaignConfig:
    """Conversations with the environment that counts turns; `folder` holds its file."""
    (folder / "counts.py").write_text(COUNTS)
    rollout = {
        "environment": "python", "environment_function": f"{folder / 'counts.py'}:reply", "max_turns": 3,
        "max_completion_length": 24, "record_top_k": 5, "group_size": 2,
    }  # fmt: skip
    given = {"rollout": rollout, "model": {"chat_template": TEMPLATE}, "evaluation": {"max_completion_length": 24}}
    return resolve("tiny", given, sections)
