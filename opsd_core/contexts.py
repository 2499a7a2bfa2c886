"""Privileged contexts: what only the teacher gets to see.

A context is one function `(example, pool, config) -> str | None`; None means that the teacher sees the student's prompt.
"""

from collections.abc import Callable, Sequence

from opsd_core.config import TeacherConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.types import Example

Context = Callable[[Example, Sequence[Example], TeacherConfig], str | None]


def none(example: Example, pool: Sequence[Example], config: TeacherConfig) -> None:
    """No privileged context."""
    return None


def reference(example: Example, pool: Sequence[Example], config: TeacherConfig) -> str:
    """The item's own answer or solution (arXiv:2601.18734). DataError when the item has none."""
    text: str = getattr(example, config.reference)
    if not text:
        raise DataError(
            f"item {example.id} has no {config.reference}, which teacher.context={config.context} shows the teacher. "
            f"Map data.columns.{config.reference}, or set teacher.reference to what the data set has."
        )
    return text


def shuffled_reference(example: Example, pool: Sequence[Example], config: TeacherConfig) -> str:
    """Another item's reference: a control that keeps the format and removes the information."""
    others = [other for other in pool if getattr(other, config.reference) != getattr(example, config.reference)]
    if not others:
        raise DataError("teacher.context=shuffled_reference needs at least two items with different references.")
    return reference(others[derive_seed("shuffled", example.id) % len(others)], pool, config)


CONTEXTS: dict[str, Context] = {
    "none": none,
    "reference": reference,
    "shuffled_reference": shuffled_reference,
}
