"""What a grader is and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass

from opsd_core.records.examples import Example


@dataclass(frozen=True)
class Grade:
    """The judgement of one completion."""

    correct: bool
    extracted: str | None
    """The final answer as found in the text, in a form in which equal answers are equal strings; None = none found."""
    score: float
    """In [0, 1]; 1 or 0 for graders without partial credit."""
    note: str = ""
    """Why the judgement is not a normal one: a verifier that timed out or failed. Empty otherwise."""


Grader = Callable[[Example, str], Grade]
