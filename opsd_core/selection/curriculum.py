"""Running pass rates and what they decide: which prompts are drawn, and how long completions may become.

The state after an iteration is a function of the state before it and of the iteration's grades, so it is an artifact
like any other and an interrupted campaign finds the same one again.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from opsd_core.config import CampaignConfig, CurriculumConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.records.tables import read_table, write_table

SCHEMA_VERSION = 1
_SCHEMA = pa.schema(
    [("example_id", pa.string()), ("correct", pa.int64()), ("graded", pa.int64())],
    metadata={"opsd.schema": "pass_rates", "opsd.schema_version": str(SCHEMA_VERSION)},
)
Counts = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class CurriculumState:
    """What earlier iterations taught about the prompts."""

    counts: Counts = field(default_factory=dict)
    """Per example id: completions that were right, completions that were graded."""
    max_completion_length: int | None = None
    """Length limit of the next iteration; None = curriculum.length_start."""


def pass_rate(counts: Counts, example_id: str) -> float:
    """p = (c + 1) / (n + 2): c right ones of n graded; 1/2 for a prompt never seen."""
    correct, graded = counts.get(example_id, (0, 0))
    return (correct + 1) / (graded + 2)


def add_grades(counts: Counts, grades: Iterable[tuple[str, bool | None]]) -> dict[str, tuple[int, int]]:
    """Counts with (example id, right or not) added; completions without a label do not count."""
    result = dict(counts)
    for example_id, correct in grades:
        if correct is not None:
            right, graded = result.get(example_id, (0, 0))
            result[example_id] = (right + correct, graded + 1)
    return result


def next_state(
    state: CurriculumState, grades: Iterable[tuple[str, bool | None]], mean_entropy: float, config: CampaignConfig
) -> CurriculumState:
    """The state after an iteration.

    The length limit grows by length_growth, at most to rollout.max_completion_length, unless the policy's mean entropy
    exceeds length_max_entropy: a policy that is unsure in short texts gets lost in long ones (arXiv:2605.16826).
    `config` is the campaign's, not the iteration's.
    """
    curriculum, length = config.curriculum, None
    if curriculum.length_start:
        length = state.max_completion_length or curriculum.length_start
        limit = curriculum.length_max_entropy
        if limit is None or mean_entropy <= limit:
            length = min(math.ceil(length * curriculum.length_growth), config.rollout.max_completion_length)
    return CurriculumState(add_grades(state.counts, grades), length)


def difficulty_weight(rate: float, config: CurriculumConfig) -> float:
    """w(p) = p^a (1 - p)^b, and 0 outside [min_pass_rate, max_pass_rate]. Source: PACED, arXiv:2603.11178."""
    if not config.min_pass_rate <= rate <= config.max_pass_rate:
        return 0.0
    return rate**config.easy_power * (1.0 - rate) ** config.hard_power


def draw_by_difficulty(
    example_ids: Sequence[str], counts: Counts, num_prompts: int, config: CurriculumConfig, seed: int, iteration: int
) -> list[str]:
    """At most `num_prompts` ids without replacement, each draw with probability proportional to its weight.

    The largest log(u_i) / w_i win (Efraimidis and Spirakis 2006); u_i depends on seed, iteration and id alone, so the draw
    does not depend on the order of `example_ids`. DataError when every weight is 0.
    """
    keys = {}
    for example_id in example_ids:
        if (weight := difficulty_weight(pass_rate(counts, example_id), config)) > 0:
            uniform = (derive_seed("difficulty", seed, iteration, example_id) + 0.5) / 2**63
            keys[example_id] = math.log(uniform) / weight
    if not keys:
        raise DataError(
            f"curriculum.sampling=difficulty: all {len(example_ids)} training prompts have a pass rate outside "
            f"[{config.min_pass_rate}, {config.max_pass_rate}]: they are solved or hopeless. Widen the range, or bring "
            "other data."
        )
    return sorted(keys, key=lambda example_id: (-keys[example_id], example_id))[:num_prompts]


def write_state(folder: Path, state: CurriculumState) -> None:
    """Write the state; equal states give equal bytes."""
    ids = sorted(state.counts)
    columns = {
        "example_id": ids,
        "correct": [state.counts[i][0] for i in ids],
        "graded": [state.counts[i][1] for i in ids],
    }
    write_table(folder / "pass_rates.parquet", columns, _SCHEMA)
    (folder / "state.json").write_text(json.dumps({"max_completion_length": state.max_completion_length}))


def read_state(folder: Path) -> CurriculumState:
    """Read a state. IntegrityError when the file is not one of this schema version."""
    rows = read_table(folder / "pass_rates.parquet", _SCHEMA).to_pylist()
    length = json.loads((folder / "state.json").read_text())["max_completion_length"]
    return CurriculumState({row["example_id"]: (row["correct"], row["graded"]) for row in rows}, length)
