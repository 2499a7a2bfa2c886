"""Identity of an example: what makes two rows the same item, and which split an item belongs to."""

from typing import Any

from opsd_core.digest import digest
from opsd_core.records.examples import Example

ID_LENGTH = 16


def example_id(question: str, answer: str, solution: str) -> str:
    """16 hex digits of the digest of the three texts; rows with equal ids are duplicates."""
    return digest([question, answer, solution])[:ID_LENGTH]


def make_example(
    question: str, answer: str = "", solution: str = "", metadata: dict[str, Any] | None = None
) -> Example:
    """An Example whose id follows from its texts."""
    return Example(
        id=example_id(question, answer, solution),
        question=question,
        answer=answer,
        solution=solution,
        metadata=metadata or {},
    )
