"""What most completions of a prompt agree on; needs no label."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from opsd_core.graders.canonical import canonical_answer
from opsd_core.graders.extraction import answer_text, find_answer
from opsd_core.graders.numbers import canonical_number, last_number, read_number


class Agreement(NamedTuple):
    """One completion's place in its prompt's vote."""

    share: float
    """Completions with the most frequent answer, over all completions of the prompt."""
    agrees: bool
    """Whether this completion gives the most frequent answer."""


def final_answer(text: str) -> str | None:
    """The answer of a text without a label to compare with: equal answers are equal strings. None when there is none."""
    answer = find_answer(text)
    if answer is None:
        return None
    if not answer.marked and (number := last_number(answer_text(text).strip().rpartition("\n")[2])):
        value = read_number(number)
        return canonical_number(value) if value is not None else None
    return canonical_answer(answer.text) or None


def agreements(example_ids: Sequence[str], answers: Sequence[str | None]) -> list[Agreement]:
    """One entry per completion, in order. A completion without an answer votes for nobody and still counts in the share.

    Of equally frequent answers the one that was given first wins. Source: U-OPSD, arXiv:2608.06296.
    """
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for example_id, answer in zip(example_ids, answers, strict=True):
        if answer is not None:
            votes[example_id][answer] += 1
    sizes = Counter(example_ids)
    result = []
    for example_id, answer in zip(example_ids, answers, strict=True):
        winner, count = (votes[example_id].most_common(1) or [(None, 0)])[0]
        result.append(Agreement(count / sizes[example_id], answer is not None and answer == winner))
    return result
