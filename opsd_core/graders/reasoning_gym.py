"""`reasoning_gym`: the task's own verifier, on the final answer taken out of the text."""

from typing import Any

from opsd_core.graders.extraction import MAX_CHARS, find_answer, normalised, pick_number
from opsd_core.graders.isolation import VERIFIERS, VerifierError
from opsd_core.graders.numbers import canonical_number, parse_number, read_number
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example

CORRECT_SCORE = 0.99
"""Verifiers give partial credit below 1; from here on an answer is correct."""


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    return "" if {"task", "entry"} <= set(example.metadata) else "it does not come from a reasoning_gym source"


def grade(example: Example, text: str) -> Grade:
    """Score of the extracted answer; of the whole text too when the text marks no answer and is short.

    Verifiers judge bare answers ("12"); a model writes "The answer is 12.", which several of them score 0 or, where
    they look for the gold answer inside the text, by its length.
    """
    gold = example.answer
    numeric = parse_number(gold) is not None and "\n" not in gold
    answer = find_answer(text, numeric=numeric, num_lines=gold.count("\n") + 1)
    if answer is None:
        return Grade(False, None, 0.0)
    number = pick_number(answer.text) if numeric else None
    submissions = [_bare(number, gold) if number else answer.text]
    if not answer.marked and len(text) <= MAX_CHARS:
        submissions.append(text.strip())
    value = read_number(number) if number else None
    shown = canonical_number(value) if value is not None else normalised(answer.text)
    try:
        score = max(_score(example.metadata, submission) for submission in submissions)
    except VerifierError as error:
        return Grade(False, shown, 0.0, f"{example.metadata['task']} verifier: {error}")
    return Grade(score >= CORRECT_SCORE, shown, score)


def _bare(number: str, gold: str) -> str:
    """The number as the verifier expects it: thousands separators only where the gold answer has them."""
    return number if "," in gold else number.replace(",", "")


def _score(metadata: dict[str, Any], answer: str) -> float:
    score = VERIFIERS.call(
        "score_reasoning_gym",
        task=metadata["task"],
        options=metadata.get("options", {}),
        entry=metadata["entry"],
        answer=answer,
    )
    return min(1.0, max(0.0, score))
