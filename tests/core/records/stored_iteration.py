"""A stored iteration of any size, written by generators: examples, rollouts of two a prompt in two shards, grades, targets."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from opsd_core.records.examples import Example, StoredExamples, write_examples
from opsd_core.records.grades import GradedRollout, Grades, write_grades
from opsd_core.records.rollouts import Rollout, StoredRollouts, write_rollouts
from opsd_core.records.targets import StoredTargets, Target, write_targets

PROMPT = "1+2="


class StoredIteration:
    """Files of `size` completions of `tokens` tokens with `entries` top-k entries below `folder`, over `alphabet` token ids."""

    def __init__(self, folder: Path, size: int, tokens: int = 64, entries: int = 4, alphabet: int = 12) -> None:
        self.folder, self.size, self._shape = folder, size, (tokens, entries, alphabet)
        self._shards = [(0, size // 4 * 2), (size // 4 * 2, size)]
        write_examples(folder / "train.parquet", map(self._example, range((size + 1) // 2)))
        for shard, (first, last) in enumerate(self._shards):
            write_rollouts(folder / f"rollouts-{shard}.parquet", self._rollouts(first, last))
            write_targets(folder / f"targets-{shard}.parquet", _Targets(self._targets, first, last))
        write_grades(folder / "grades.parquet", Grades.of(map(self._grade, range(size))))

    @property
    def rollouts(self) -> StoredRollouts:
        return StoredRollouts([self.folder / f"rollouts-{shard}.parquet" for shard in range(2)], self.folder)

    @property
    def targets(self) -> StoredTargets:
        return StoredTargets([self.folder / f"targets-{shard}.parquet" for shard in range(2)])

    @property
    def grades(self) -> Grades:
        return Grades.read(self.folder / "grades.parquet")

    @property
    def examples(self) -> StoredExamples:
        return StoredExamples([self.folder / "train.parquet"])

    def _example(self, number: int) -> Example:
        return Example(f"{number:016x}", PROMPT, str(number % 10), f"the answer is {number % 10}", {})

    def _grade(self, number: int) -> GradedRollout:
        keep, key = number % 5 > 0, (f"{number // 2:016x}", number % 2)
        return GradedRollout(*key, number % 3 == 0, 1.0, str(number % 10), keep, "" if keep else "leak")

    def _rollouts(self, first: int, last: int) -> Iterator[Rollout]:
        tokens, entries, alphabet = self._shape
        for number in range(first, last):
            draw = np.random.default_rng(number)
            ids_TK = draw.integers(0, alphabet, (tokens, entries), np.int32)
            logprobs_TK = -draw.random((tokens, entries), np.float32) - 3
            column_T = -draw.random(tokens, np.float32)
            yield Rollout(
                f"{number // 2:016x}", number % 2, number, list(range(1, 9)), ids_TK[:, 0].tolist(),
                f"so the answer is {number % 7}", "eos" if number % 7 else "length",
                column_T, column_T, ids_TK, logprobs_TK, -column_T, -column_T,
            )  # fmt: skip

    def _targets(self, first: int, last: int) -> Iterator[Target]:
        for r in self._rollouts(first, last):
            yield Target(*r.key, 9, r.topk_ids_TK, r.topk_logprobs_TK, r.logprobs_T, r.logprobs_T, r.entropy_T)


class _Targets:
    """As often as they are asked for."""

    def __init__(self, make, first: int, last: int) -> None:
        self._make, self._ends = make, (first, last)

    def __iter__(self) -> Iterator[Target]:
        return self._make(*self._ends)
