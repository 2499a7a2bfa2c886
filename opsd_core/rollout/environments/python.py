"""`python`: a function of the user's, `function(messages) -> (message, done)`, found by its import path.

`messages` is the conversation as a list of {"role", "content"}, the policy's last turn at its end. `message` is a text, which the
user says, {"role": "user" or "tool", "content": ...}, or None; with done the conversation is over, and the message is not said.
"""

from collections.abc import Sequence
from typing import Any

from opsd_core.bounded.functions import CallError, UserFunction, user_function
from opsd_core.errors import DataError
from opsd_core.rollout.environments.types import ROLES, Environment, Message, Reply

FIELD = "rollout.environment_function"


def function_of(place: str) -> UserFunction:
    """The function at `place`, of this process."""
    return user_function(FIELD, place, ("messages",))


def environment_of(place: str) -> Environment:
    """The environment that the function at `place` is. It raises DataError when the function raises or gives no answer."""
    function = function_of(place)

    def reply(messages: Sequence[Message]) -> Reply:
        try:
            return _read(function.call([dict(message) for message in messages]))
        except CallError as error:
            said = messages[-1]["content"] if messages else ""
            why = f"{FIELD} {error}, after {said!r:.200}. It has to answer whatever the policy writes: correct it."
            raise DataError(why) from None

    return reply


def _read(found: Any) -> Reply:
    if not (isinstance(found, list) and len(found) == 2 and isinstance(found[1], bool)):
        raise CallError(f"returned {found!r:.80}, where (message, done) is wanted")
    message, done = found
    if done:
        return Reply(None)
    message = {"role": "user", "content": message} if isinstance(message, str) else message
    right = isinstance(message, dict) and message.keys() == {"role", "content"} and message["role"] in ROLES
    if not right or not isinstance(message["content"], str) or not message["content"]:
        raise CallError(
            f"returned {found!r:.80}: where it is not done, the message is a text or {{role: user or tool, content: text}}"
        )
    return Reply(message)
