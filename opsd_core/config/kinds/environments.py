"""The kinds of environments: what answers the policy between its turns. Data that configuration rules and rollouts share.

Each is a function `messages -> Reply` below `opsd_core`, or one of the user's (`reads`); see `opsd_core.rollout.environments`.
"""

from typing import NamedTuple


class EnvironmentKind(NamedTuple):
    """One kind of environment."""

    meaning: str
    """What it does, in a few words."""
    function: str = ""
    """Its place below `opsd_core`; empty for none, and where the user names it."""
    reads: tuple[str, ...] = ("max_turns",)
    """Settings of `rollout` that only kinds like this one read."""


ENVIRONMENT_KINDS: dict[str, EnvironmentKind] = {
    "none": EnvironmentKind("nobody answers, a completion is one turn", reads=()),
    "calculator": EnvironmentKind("the value of what stands in <calc>...</calc>", "rollout.environments.calculator.calculator"),
    "python": EnvironmentKind("the function that environment_function names", reads=("max_turns", "environment_function")),
}
