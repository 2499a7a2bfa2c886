"""Whether conversations can be held, before anything is sampled."""

from collections.abc import Sequence

from opsd_core.config import RolloutConfig
from opsd_core.errors import DataError
from opsd_core.prompts.turns import Turns
from opsd_core.records.examples import Example
from opsd_core.rollout.environments import environment_of

_TRIED = 4
"""Items with which the environment is tried."""


def check_environment(turns: Turns, examples: Sequence[Example], config: RolloutConfig) -> None:
    """Ask the environment about a few items, and the chat template about its messages. Nothing where nobody answers.

    ConfigError for a function that cannot be imported, DataError naming the item for which it gives no answer, ModelError for a
    template with which a conversation cannot go on token by token.
    """
    environment, roles = environment_of(config), set[str]()
    if environment is None:
        return
    tried = list(examples[:_TRIED])
    for example, opening in zip(tried, turns.opening(tried), strict=True):
        for text in (example.answer, ""):
            try:
                reply = environment([*opening, {"role": "assistant", "content": text}])
            except DataError as error:
                raise DataError(f"item {example.id}: {error}") from error
            roles |= {reply.message["role"]} if reply.message else set()
    for role in sorted(roles or {"user"}):
        turns.check(role)
