"""Environments: what answers the policy between its turns.

An environment is a function `messages -> Reply` (`types`), and one line in `opsd_core.config.kinds.environments`. It may depend
on nothing but the messages: a conversation that is sampled again has to come out the same.
"""

from typing import Any

from opsd_core.config import RolloutConfig
from opsd_core.config.kinds.environments import ENVIRONMENT_KINDS
from opsd_core.named import named
from opsd_core.rollout.environments import python
from opsd_core.rollout.environments.types import Environment, Message, Reply

VERSION = 1
"""Raised whenever an answer of a shipped environment can change. Part of the identity of everything that is sampled with one."""


def environment_of(config: RolloutConfig) -> Environment | None:
    """The environment that `config` names; None where nobody answers. ConfigError for a function that cannot be imported."""
    if config.environment == "python":
        python.function_of(config.environment_function).content  # noqa: B018 — imported now, refused by field where it cannot be
        return python.environment_of(config.environment_function)
    place = ENVIRONMENT_KINDS[config.environment].function
    return named(place) if place else None


def environment_identity(config: RolloutConfig) -> dict[str, Any]:
    """What a conversation depends on besides policy, prompts and sampling; nothing where nobody answers."""
    if config.environment == "none":
        return {}
    found: dict[str, Any] = {"kind": f"{config.environment}@{VERSION}", "max_turns": config.max_turns}
    if config.environment == "python":
        found["function"] = python.function_of(config.environment_function).identity
    return {"environment": found}


__all__ = ["VERSION", "Environment", "Message", "Reply", "environment_identity", "environment_of"]
