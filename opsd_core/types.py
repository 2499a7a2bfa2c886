"""Small records that several modules share."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """One item of a dataset after cleaning."""

    id: str
    """16 hex digits of the digest of question, answer and solution."""
    question: str
    answer: str
    """Final answer; empty when the dataset has no labels."""
    solution: str
    """Worked solution; empty when there is none."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON-safe extras that the grader needs (a reasoning-gym entry, for instance)."""
