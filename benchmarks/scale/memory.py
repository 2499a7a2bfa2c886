"""Memory at the peak of every stage that reads an iteration's stored completions, and its growth with each of them.

python -m benchmarks.scale.memory --rollouts 1000000 --folder FOLDER   # writes about 2 GB
"""

import argparse
import ctypes
import gc
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opsd_core.config import resolve
from opsd_core.digest import derive_seed
from opsd_core.records.examples import Example, StoredExamples, write_examples
from opsd_core.records.grades import Grades
from opsd_core.records.rollouts import Rollout, StoredRollouts, write_rollouts
from opsd_core.records.tables import ROWS_PER_GROUP
from opsd_core.records.targets import StoredTargets, Target, write_targets

TOKENS, ENTRIES, GROUP, SHARDS = 200, 1, 8, 40
CONFIG = resolve("base", {
    "name": "many", "model": {"source": "m"},
    "data": {"source": "train.jsonl", "columns": {"question": "q", "answer": "a"}, "grader": "numeric"},
    "distillation": {"targets": "recorded"}, "rollout": {"group_size": GROUP},
})  # fmt: skip
STEPS, BATCH = 50, 32


class Iteration:
    """The first `shards` of the stored files."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder, self._shards = folder, range(shards)
        self.rollouts = StoredRollouts([folder / f"rollouts-{shard}.parquet" for shard in self._shards], folder)
        self.examples = StoredExamples([folder / f"examples-{shard}.parquet" for shard in self._shards])

    @property
    def targets(self) -> StoredTargets:
        return StoredTargets([self.folder / f"targets-{shard}.parquet" for shard in self._shards])

    @property
    def grades(self) -> Grades:
        return Grades(pa.concat_tables(Grades.read(self.folder / f"grades-{shard}.parquet").table for shard in self._shards))


def keys(made: Iteration) -> object:
    found, lengths = made.rollouts.keys(), made.rollouts.lengths()
    return found, lengths, found.order


def graded(made: Iteration) -> object:
    from opsd_core.selection.grading import grade_rollouts

    return grade_rollouts(made.rollouts.light, made.examples.by_id(), CONFIG).rows


def curriculum(made: Iteration) -> object:
    from opsd_core.records.sums import mean_of_parts
    from opsd_core.selection.curriculum import CurriculumState, next_state

    mean = mean_of_parts(made.rollouts.entropies(), int(made.rollouts.lengths().sum()))
    judged = zip(made.grades.column("example_id"), made.grades.column("correct"), strict=True)
    return next_state(CurriculumState(), judged, mean, CONFIG)


class _Same(dict):
    """One prompt for whoever asks."""

    def __missing__(self, key: object) -> list[int]:
        return [1, 2, 3]


def prompts(made: Iteration) -> object:
    from opsd_core.prompts.teacher import student_prompts

    return student_prompts(made.rollouts.light)  # as the teacher's, which a template makes first


def items(made: Iteration) -> object:
    from opsd_core.training.items import Recorded, stored_items
    from opsd_core.training.trainer import batch_order
    from tests.core.small import small_policy

    def wanted(number: int) -> list[int]:
        return [row for batch in batch_order(number, BATCH, STEPS, 0) for row in batch]

    recorded = Recorded(made.rollouts, made.grades, made.targets)
    found, _ = stored_items(recorded, _Same(), made.examples.by_id(), small_policy(), CONFIG, wanted)
    return sum(found[row].num_tokens for row in wanted(len(found))), found


def report(made: Iteration) -> object:
    from opsd_core.records.sums import histogram

    return histogram(made.rollouts.entropies, 40), made.rollouts.lengths()


def study_report(made: Iteration) -> object:
    from opsd_core.records.sums import means_along
    from opsd_core.teacher.scoring import divergence_along

    scored = made.targets.by_key()
    return means_along(divergence_along(r, scored[r.key]) for r in made.rollouts if r.key in scored)


def answers(made: Iteration) -> object:
    from opsd_core.answers.tokens import Sampled, divergence_curve, drawn

    sampled = Sampled(made.rollouts, made.grades.by_key(), str, str, made.targets.by_key(), made.examples.by_id())
    return drawn(sampled)[:80], divergence_curve(sampled)


STAGES: dict[str, Callable[[Iteration], object]] = {
    "keys and lengths": keys,
    "training items": items,
    "report": report,
    "prompts of every completion": prompts,
    "curriculum": curriculum,
    "grading": graded,
    "answers page": answers,
    "study report": study_report,
}


def write(folder: Path, size: int) -> None:
    """`size` completions: ROWS_PER_GROUP different ones again and again, each with a key of its own."""
    draw, number = np.random.default_rng(0), 0
    base, scored = list(_rollouts(draw)), []
    for r in base:
        scored.append(Target(*r.key, 64, r.topk_ids_TK, r.topk_logprobs_TK, r.logprobs_T, r.logprobs_T, r.entropy_T))
    write_rollouts(folder / "base.parquet", base)
    write_targets(folder / "base-targets.parquet", scored)
    tables = {"rollouts": pq.read_table(folder / "base.parquet"), "targets": pq.read_table(folder / "base-targets.parquet")}
    groups = max(1, size // SHARDS // ROWS_PER_GROUP)
    for shard in range(SHARDS):
        first = number
        files = {kind: (folder / f"{kind}-{shard}.parquet", table.schema) for kind, table in tables.items()}
        writers = {kind: pq.ParquetWriter(path, schema, compression="zstd") for kind, (path, schema) in files.items()}
        for _ in range(groups):
            for kind, table in tables.items():
                writers[kind].write_table(_with_keys(table, number))
            number += ROWS_PER_GROUP
        for writer in writers.values():
            writer.close()
        _grades(folder / f"grades-{shard}.parquet", first, number)
        examples = (Example(f"{n:016x}", "What is 1 + 2?", str(n % 7), "", {}) for n in range(first // GROUP, number // GROUP))
        write_examples(folder / f"examples-{shard}.parquet", examples)


def _rollouts(draw: np.random.Generator) -> Iterator[Rollout]:
    """Of 16 different numbers, so that the files are small: what is read into memory is as large as ever."""
    for row in range(ROWS_PER_GROUP):
        ids_TK = draw.integers(0, 16, (TOKENS, ENTRIES), np.int32)
        columns = [-draw.integers(1, 17, TOKENS).astype(np.float32) / 16 for _ in range(4)]
        yield Rollout(
            f"{row:016x}", 0, derive_seed("made", row), list(range(60)), draw.integers(0, 16, TOKENS).tolist(),
            f"First, {row} times nothing is nothing. So the answer is {row % 7}." * 6, "eos" if row % 9 else "length",
            columns[0], columns[1], ids_TK, ids_TK.astype(np.float32) - 20, -columns[2], -columns[3],
        )  # fmt: skip


def _with_keys(table: pa.Table, number: int) -> pa.Table:
    ids = pa.array([f"{(number + row) // GROUP:016x}" for row in range(len(table))])
    samples = pa.array([(number + row) % GROUP for row in range(len(table))], pa.int32())
    return table.set_column(0, table.schema.field(0), ids).set_column(1, table.schema.field(1), samples)


def _grades(path: Path, first: int, last: int) -> None:
    from opsd_core.records.grades import GradedRollout, write_grades

    numbers = range(first, last)
    rows = (GradedRollout(f"{n // GROUP:016x}", n % GROUP, n % 3 == 0, 1.0, str(n % 7), n % 5 > 0, "") for n in numbers)
    write_grades(path, Grades.of(rows))


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(folder: Path, stage: str, shards: int) -> tuple[int, int, float]:
    """Completions, bytes at the stage's peak above what the process held before, and seconds."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier stages gave back is not at hand for this one
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = _status("VmRSS"), time.perf_counter()
    made = Iteration(folder, shards)
    held = STAGES[stage](made)
    peak, seconds = _status("VmHWM") - before, time.perf_counter() - started
    del held
    return len(made.rollouts), peak, seconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rollouts", type=int, default=1_000_000)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--shards", type=int, default=SHARDS, help="measure with the first ones of the files only")
    options.add_argument("--stages", nargs="*", default=list(STAGES))
    options.add_argument("--keep", action="store_true", help="leave the files for another run")
    given = options.parse_args()
    if not (given.folder / f"grades-{given.shards - 1}.parquet").exists():
        given.folder.mkdir(parents=True, exist_ok=True)
        write(given.folder, given.rollouts)
    print("| stage | completions | MB at the peak | bytes a completion, from a tenth of them on | seconds |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for stage in given.stages:
        measure(given.folder, stage, 1)  # loads what the stage imports
        few, less, _ = measure(given.folder, stage, max(1, given.shards // 10))
        many, more, seconds = measure(given.folder, stage, given.shards)
        growth = (more - less) / (many - few)
        print(f"| {stage} | {many:,} | {more / 1e6:.0f} | {growth:.0f} | {seconds:.0f} |", flush=True)
    if not given.keep:
        shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
