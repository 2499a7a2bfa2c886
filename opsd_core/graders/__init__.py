"""Graders: is a completion's final answer right?

A grader is a module with `grade(example, text) -> Grade` and `refuses(example) -> reason or ""`, and one line below.
"""

from collections.abc import Iterable
from types import ModuleType

from opsd_core.config import DataConfig
from opsd_core.errors import ConfigError, DataError
from opsd_core.graders import choice, exact, math, numeric, reasoning_gym
from opsd_core.graders.types import Grade, Grader
from opsd_core.records.examples import Example

GRADERS: dict[str, ModuleType] = {
    "choice": choice,
    "exact": exact,
    "math": math,
    "numeric": numeric,
    "reasoning_gym": reasoning_gym,
}


def grader_name(config: DataConfig) -> str:
    """The grader that `config.grader` means; auto = the one that the kind of source has."""
    if config.grader == "auto":
        return config.kind.grader
    return config.grader


def get_grader(name: str) -> Grader:
    """The function that grades. Raises ConfigError naming the graders that exist."""
    return _module(name).grade


def check_gradable(examples: Iterable[Example], name: str) -> None:
    """Raise DataError when the grader cannot judge some of the examples, with their count and the first reason."""
    refuses = _module(name).refuses
    examples = list(examples)
    reasons = [(example, reason) for example in examples if (reason := refuses(example))]
    if reasons:
        example, reason = reasons[0]
        raise DataError(
            f"data.grader={name} cannot judge {len(reasons)} of {len(examples)} items. First, item {example.id} "
            f"({example.question!r:.80}): {reason}. Choose another data.grader ({', '.join(sorted(GRADERS))}) "
            "or correct data.columns.answer."
        )


def _module(name: str) -> ModuleType:
    if name not in GRADERS:
        raise ConfigError(f"data.grader={name!r} does not exist. Available: auto, {', '.join(sorted(GRADERS))}.")
    return GRADERS[name]


__all__ = ["GRADERS", "Grade", "Grader", "check_gradable", "get_grader", "grader_name"]
