"""What an environment is: it reads a conversation and answers, or ends it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

Message = dict[str, str]
"""{"role": ..., "content": ...}; roles are system, user, assistant, and of an environment user or tool."""
ROLES = ("user", "tool")
"""As which an environment may speak, where the chat template has the role."""


class Reply(NamedTuple):
    """An environment's answer to the policy's last turn."""

    message: Message | None
    """None = the conversation is over."""


Environment = Callable[[Sequence[Message]], Reply]
"""It gives the same for the same. DataError when it cannot answer."""
