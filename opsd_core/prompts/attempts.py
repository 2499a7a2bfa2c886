"""Which of a prompt's other completions the teacher is shown: one function and one line of ATTEMPTS for each way.

A completion that says the same, word for word, is the completion itself to a teacher that reads both, so it is never shown.
Nor is anything from inside a thought: what is shown is what stands behind the last one, and an attempt that was cut while it
thought has nothing to show. Control tokens are not part of a completion's text, and names of such tokens stay names
(`opsd_core.models.plain_text`).
"""

from collections.abc import Callable, Sequence

from opsd_core.digest import derive_seed
from opsd_core.graders.thoughts import spoken_text
from opsd_core.prompts.context_inputs import Attempt, ContextInputs


def drawn(attempts: Sequence[Attempt], inputs: ContextInputs) -> Attempt:
    """One of them, decided by the item's id and the completion's index alone."""
    return attempts[derive_seed("attempt", inputs.example.id, inputs.sample_index) % len(attempts)]


def right_first(others: Sequence[Attempt], inputs: ContextInputs) -> Attempt:
    """One of the right ones, else of all."""
    return drawn([attempt for attempt in others if attempt.correct] or others, inputs)


def wrong_first(others: Sequence[Attempt], inputs: ContextInputs) -> Attempt:
    """One of those that are not right, else of all."""
    return drawn([attempt for attempt in others if not attempt.correct] or others, inputs)


def shortest_wrong_first(others: Sequence[Attempt], inputs: ContextInputs) -> Attempt:
    """The shortest of those that are not right, else of all; of equally long ones the first."""
    wrong = [attempt for attempt in others if not attempt.correct] or others
    return min(wrong, key=lambda attempt: (attempt.num_tokens, attempt.sample_index))


ATTEMPTS: dict[str, Callable[[Sequence[Attempt], ContextInputs], Attempt]] = {
    "right_first": right_first,
    "wrong_first": wrong_first,
    "any": drawn,
    "shortest_wrong_first": shortest_wrong_first,
}


def another_attempt(inputs: ContextInputs) -> str:
    """What another completion of the prompt says, chosen by teacher.attempt; "" when there is none to show."""
    same = {"", inputs.own.text.strip(), _said(inputs.own)}
    others = [attempt for attempt in inputs.group if attempt.sample_index != inputs.sample_index and _said(attempt) not in same]
    return _said(ATTEMPTS[inputs.config.attempt](others, inputs)) if others else ""


def _said(attempt: Attempt) -> str:
    return spoken_text(attempt.text).strip()
