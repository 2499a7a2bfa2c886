"""`python`: a function of the user's, `function(text, item) -> bool or a score in [0, 1]`, found by its import path.

`text` is the completion without its thoughts' marks being touched: all that the policy wrote as its answer. `item` is a dict with
id, question, answer, solution and metadata. It has to give the same for the same, or grades cannot be made again.
"""

import time
from dataclasses import asdict, dataclass, field

from opsd_core.bounded.functions import CallError, OvertimeError, UserFunction, user_function
from opsd_core.errors import ConfigError, DataError
from opsd_core.graders.agreement import final_answer
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example

FIELD = "data.grader_function"
CORRECT_SCORE = 0.99
"""Scores from here on are right; a function that knows another limit returns true or false."""
_TRIED_SECONDS = 20.0
"""For trying the function on items before anything else is done; as many of them as go in."""


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    return _function("").refuses(example)


def grade(example: Example, text: str) -> Grade:
    """ConfigError: the grader is `python:` and a function's place."""
    return _function("").grade(example, text)


@dataclass
class Judge:
    """The grader that one function is."""

    function: UserFunction
    _spent: float = field(default=0.0, init=False)

    def refuses(self, example: Example) -> str:
        """Why it cannot judge the example, or "": it is tried on the item's answer and on a text without words."""
        if self._spent > _TRIED_SECONDS:
            return ""
        started = time.perf_counter()
        try:
            for text in (example.answer, ""):
                self._score(example, text)
        except CallError as error:
            return f"{FIELD} {error}"
        finally:
            self._spent += time.perf_counter() - started
        return ""

    def grade(self, example: Example, text: str) -> Grade:
        """The function's word. DataError naming the item when it raises or returns what is no grade; a text over which it takes
        too long is wrong, with a note."""
        try:
            score = self._score(example, text)
        except OvertimeError as error:
            return Grade(False, final_answer(text), 0.0, f"{FIELD} {error}")
        except CallError as error:
            raise DataError(
                f"{FIELD} {error}, for item {example.id} ({example.question!r:.80}) and the completion {text!r:.200}. It has to "
                f"judge every text. Correct the function, or set another data.grader."
            ) from None
        return Grade(score >= CORRECT_SCORE, final_answer(text), score)

    def _score(self, example: Example, text: str) -> float:
        value = self.function.call(text, asdict(example))
        if not isinstance(value, bool | int | float) or not 0.0 <= value <= 1.0:
            raise CallError(f"returned {value!r:.80}, where true, false or a number from 0 to 1 is wanted")
        return float(value)


def of(place: str) -> Judge:
    """The grader of the function at `place`. ConfigError when there is none."""
    return _function(place)


def content(place: str) -> str:
    """What the function is, for identities."""
    return _function(place).function.identity


def _function(place: str) -> Judge:
    if not place:
        raise ConfigError(f"data.grader=python needs {FIELD}: the place of the function that judges, package.module:function.")
    return Judge(user_function(FIELD, place, ("text", "item")))
