"""Which of a prompt's other completions the teacher is shown: one function and one line of ATTEMPTS for each way.

A wrong completion that says the same, word for word, is never shown: to a teacher that reads both it is the completion itself,
and what is wrong would teach itself. A right one that says the same is a twin: another sample has confirmed the answer. It is
shown where nothing else suits.

Nothing is shown from inside a thought: what is shown is what stands behind the last one, and an attempt that was cut while it
thought has nothing to show. Control tokens are not part of a completion's text, and names of such tokens stay names
(`opsd_core.models.plain_text`).
"""

from collections.abc import Callable, Sequence

from opsd_core.digest import derive_seed
from opsd_core.graders.thoughts import spoken_text
from opsd_core.prompts.context_inputs import Attempt, ContextInputs

Attempts = Sequence[Attempt]


def drawn(attempts: Attempts, inputs: ContextInputs) -> Attempt:
    """One of them, decided by the item's id and the completion's index alone."""
    return attempts[derive_seed("attempt", inputs.example.id, inputs.sample_index) % len(attempts)]


def right_first(others: Attempts, twins: Attempts, inputs: ContextInputs) -> Attempt:
    """One of the right ones, else of the twins, else of all others."""
    return drawn([attempt for attempt in others if attempt.correct] or twins or others, inputs)


def wrong_first(others: Attempts, twins: Attempts, inputs: ContextInputs) -> Attempt:
    """One of those that are not right, else of all others, else of the twins."""
    return drawn([attempt for attempt in others if not attempt.correct] or others or twins, inputs)


def whichever(others: Attempts, twins: Attempts, inputs: ContextInputs) -> Attempt:
    """One of all others, else of the twins."""
    return drawn(others or twins, inputs)


def shortest_wrong_first(others: Attempts, twins: Attempts, inputs: ContextInputs) -> Attempt:
    """The shortest of those that are not right, else of all others, else of the twins; of equally long ones the first."""
    suiting = [attempt for attempt in others if not attempt.correct] or others or twins
    return min(suiting, key=lambda attempt: (attempt.num_tokens, attempt.sample_index))


ATTEMPTS: dict[str, Callable[[Attempts, Attempts, ContextInputs], Attempt]] = {
    "right_first": right_first,
    "wrong_first": wrong_first,
    "any": whichever,
    "shortest_wrong_first": shortest_wrong_first,
}
"""Of the prompt's completions that say something else, and of right ones that say the same: at least one of both."""


def another_attempt(inputs: ContextInputs) -> str:
    """What another completion of the prompt says, chosen by teacher.attempt; "" when there is none to show."""
    same = {inputs.own.text.strip(), _said(inputs.own)}
    saying = [attempt for attempt in inputs.group if attempt.sample_index != inputs.sample_index and _said(attempt)]
    others = [attempt for attempt in saying if _said(attempt) not in same]
    twins = [attempt for attempt in saying if _said(attempt) in same and attempt.correct]
    return _said(ATTEMPTS[inputs.config.attempt](others, twins, inputs)) if others or twins else ""


def _said(attempt: Attempt) -> str:
    return spoken_text(attempt.text).strip()
