"""`exact`: the whole completion, or the answer it marks, equals the gold answer after normalisation."""

from opsd_core.graders.extraction import answer_text, marked_answer, normalised
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    return "" if normalised(example.answer) else "the answer is empty"


def grade(example: Example, text: str) -> Grade:
    """Case, white space, wrapping quotes and a final period do not count; what stands inside <think> neither."""
    text = answer_text(text)
    gold, whole = normalised(example.answer), normalised(text)
    if not whole:
        return Grade(False, None, 0.0)
    marked = normalised(marked_answer(text, num_lines=example.answer.count("\n") + 1) or "")
    correct = gold in (whole, marked)
    return Grade(correct, gold if correct else marked or whole, float(correct))
