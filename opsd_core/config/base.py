"""The base of every configuration section."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings; unknown keys are rejected by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


_USUAL = {"keep_per_prompt": "all", "attempt": "right_first"}
"""Younger settings with the values at which they change nothing, or which stand for what is not said."""


def in_identities(values: Any) -> Any:
    """Dumped settings as identities have them: younger settings are left out where they change nothing.

    What was stored before these settings existed is found again.
    """
    if isinstance(values, list | tuple):
        return type(values)(in_identities(value) for value in values)
    if not isinstance(values, dict):
        return values
    silent = {"grader_function"} if "source" in values and values.get("grader_function") == "" else set()
    if "environment_function" in values and values.get("environment") == "none":
        silent |= {"environment", "environment_function", "max_turns"}
    silent |= {name for name, usual in _USUAL.items() if values.get(name) == usual}
    if isinstance(refill := values.get("refill"), dict) and not refill.get("share"):
        silent |= {"refill"}
    return {name: in_identities(value) for name, value in values.items() if name not in silent}
