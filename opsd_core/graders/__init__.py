"""Graders: is a completion's final answer right?

A grader is a module with `grade(example, text) -> Grade` and `refuses(example) -> reason or ""`, and one line in
`opsd_core.config.kinds.graders`.
"""

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

from opsd_core.config import DataConfig
from opsd_core.config.kinds.graders import GRADER_KINDS
from opsd_core.errors import ConfigError, DataError
from opsd_core.graders.types import Grade, Grader
from opsd_core.records.examples import Example

VERSION = 2
"""Raised whenever a verdict or a vote can change. Part of the identity of everything that grades decide."""

GRADERS: dict[str, ModuleType] = {name: import_module(kind.module) for name, kind in GRADER_KINDS.items()}


def grader_name(config: DataConfig) -> str:
    """The grader that `config.grader` means; auto = the one that the kind of source has."""
    if config.grader == "auto":
        return config.kind.grader
    return config.grader


def grader_identity(config: DataConfig) -> str:
    """What stored verdicts and votes depend on beside the texts: the grader's name and the graders' version."""
    return f"{grader_name(config)}@{VERSION}"


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


__all__ = [
    "GRADERS",
    "VERSION",
    "Grade",
    "Grader",
    "check_gradable",
    "get_grader",
    "grader_identity",
    "grader_name",
]
