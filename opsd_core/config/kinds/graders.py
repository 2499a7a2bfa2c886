"""The graders' names and files: data that the configuration and the graders' registry share.

Each module has `grade(example, text) -> Grade` and `refuses(example) -> reason or ""`; see `opsd_core.graders`.
"""

from typing import NamedTuple


class GraderKind(NamedTuple):
    """One kind of grader: where it stands and what it judges."""

    module: str
    """Dotted name of its file; imported by `opsd_core.graders`, not by the configuration."""
    judges: str
    """What makes a completion right, for the documentation and error messages."""
    reports: bool = False
    """What it extracts says what is wrong with the completion: the context feedback shows it."""
    answers: bool = True
    """An item's answer is itself a right completion; else it only says how one is judged."""


GRADER_KINDS: dict[str, GraderKind] = {
    "math": GraderKind("opsd_core.graders.math", "a number or expression of the same value"),
    "numeric": GraderKind("opsd_core.graders.numeric", "the same number"),
    "exact": GraderKind("opsd_core.graders.exact", "the same text"),
    "choice": GraderKind("opsd_core.graders.choice", "the same letter A to J"),
    "instruction": GraderKind(
        "opsd_core.graders.instruction", "a text that obeys the demand that the answer names", answers=False
    ),
    "unit_tests": GraderKind(
        "opsd_core.graders.unit_tests", "a Python program that passes the tests in the item's answer", reports=True, answers=False
    ),
    "reasoning_gym": GraderKind("opsd_core.graders.reasoning_gym", "the task's own verifier"),
    "python": GraderKind("opsd_core.graders.python", "what the function data.grader_function says", answers=False),
}
