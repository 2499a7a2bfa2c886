"""Graders: is a completion's final answer right?

A grader is a module with `grade(example, text) -> Grade` and `refuses(example) -> reason or ""`, and one line in
`opsd_core.config.kinds.graders`.
"""

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Protocol

from opsd_core.config import DataConfig
from opsd_core.config.kinds.graders import GRADER_KINDS, GraderKind
from opsd_core.errors import ConfigError, DataError
from opsd_core.graders import python
from opsd_core.graders.types import Grade, Grader
from opsd_core.records.examples import Example

VERSION = 2
"""Raised whenever a verdict or a vote can change. Part of the identity of everything that grades decide."""

GRADERS: dict[str, ModuleType] = {name: import_module(kind.module) for name, kind in GRADER_KINDS.items()}


class _Judges(Protocol):
    """A module of the table, or one function of the user's."""

    def grade(self, example: Example, text: str) -> Grade: ...
    def refuses(self, example: Example) -> str: ...


def grader_name(config: DataConfig) -> str:
    """The grader that `config.grader` means; auto = the one that the kind of source has, python:PLACE = the user's function."""
    if config.grader == "auto":
        return config.kind.grader
    return f"python:{config.grader_function}" if config.grader == "python" else config.grader


def grader_kind(name: str) -> GraderKind:
    """What the table says about the grader of this name."""
    return GRADER_KINDS[name.partition(":")[0]]


def grader_identity(config: DataConfig) -> str:
    """What stored verdicts and votes depend on beside the texts: the grader's name and the graders' version.

    Of a user's function its content in place of where it lies; ConfigError when there is none.
    """
    if config.grader == "python":
        return f"python@{VERSION}:{python.content(config.grader_function)}"
    return f"{grader_name(config)}@{VERSION}"


def get_grader(grader: str | DataConfig) -> Grader:
    """The function that grades: by its name, or what `data.grader` of a configuration means.

    ConfigError naming the graders that exist, or for a user's function that cannot be imported.
    """
    return _judges(grader if isinstance(grader, str) else grader_name(grader)).grade


def check_gradable(examples: Iterable[Example], name: str) -> None:
    """Raise DataError when the grader cannot judge some of the examples, with their count and the first reason."""
    refuses = _judges(name).refuses
    examples = list(examples)
    reasons = [(example, reason) for example in examples if (reason := refuses(example))]
    if reasons:
        example, reason = reasons[0]
        raise DataError(
            f"data.grader={name} cannot judge {len(reasons)} of {len(examples)} items. First, item {example.id} "
            f"({example.question!r:.80}): {reason}. Choose another data.grader ({', '.join(sorted(GRADERS))}) "
            "or correct data.columns.answer."
        )


def _judges(name: str) -> _Judges:
    kind, _, place = name.partition(":")
    if kind == "python":
        return python.of(place)
    if name == "auto":
        raise ConfigError("grader 'auto' depends on the data. Give get_grader the data section of a configuration, or a name.")
    if name not in GRADERS:
        raise ConfigError(f"data.grader={name!r} does not exist. Available: auto, {', '.join(sorted(GRADERS))}.")
    return GRADERS[name]  # type: ignore[return-value]


__all__ = [
    "GRADERS",
    "VERSION",
    "Grade",
    "Grader",
    "check_gradable",
    "get_grader",
    "grader_identity",
    "grader_kind",
    "grader_name",
]
