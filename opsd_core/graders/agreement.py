"""What most completions of a prompt agree on; needs no label."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from opsd_core.graders.canonical import canonical_answer
from opsd_core.graders.extraction import answer_text, find_answer
from opsd_core.graders.numbers import canonical_number, last_number, read_number
from opsd_core.records.rows import Rows
from opsd_core.records.tables import parts_of


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


class Votes(Rows[Agreement]):
    """The votes of many completions, 9 bytes each."""

    def __init__(self, shares_N: np.ndarray, agrees_N: np.ndarray) -> None:
        self._shares_N, self._agrees_N = shares_N, agrees_N

    def __len__(self) -> int:
        return len(self._shares_N)

    def _row(self, number: int) -> Agreement:
        return Agreement(float(self._shares_N[number]), bool(self._agrees_N[number]))


def votes_of(example_ids: Iterable[str], answers: Iterable[str | None]) -> Votes:
    """One entry per completion, in order. A completion without an answer votes for nobody and still counts in the share.

    Of equally frequent answers the one that was given first wins. Source: U-OPSD, arXiv:2608.06296.
    P = prompts, N = completions, V = different answers to different prompts
    """
    prompts_N, answers_N = _numbers(example_ids), _numbers(answers)
    sizes_P = np.bincount(prompts_N, minlength=1)
    base = int(answers_N.max(initial=0)) + 1
    ballots = prompts_N * base + answers_N
    kinds_V, first_V, counts_V = np.unique(ballots[answers_N >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first_V, -counts_V, kinds_V // base))
    prompts_V = kinds_V[order] // base
    winners = order[np.flatnonzero(np.diff(prompts_V, prepend=-1))]
    winner_P, count_P = np.full(len(sizes_P), -1, np.int64), np.zeros(len(sizes_P), np.int64)
    winner_P[kinds_V[winners] // base], count_P[kinds_V[winners] // base] = kinds_V[winners], counts_V[winners]
    agrees_N = (answers_N >= 0) & (ballots == winner_P[prompts_N])
    return Votes(count_P[prompts_N] / sizes_P[prompts_N], agrees_N)


def _numbers(names: Iterable[str | None]) -> np.ndarray:
    """Equal names, equal numbers, int64; -1 for None."""
    parts = [pa.array(part, pa.string()) for part in parts_of(names, 512)]
    encoded = pa.chunked_array(parts, pa.string()).combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
