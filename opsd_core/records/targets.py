"""Soft targets on disk: the teacher's distribution at every completion position.

N = completion tokens, K = entries kept
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from opsd_core.errors import IntegrityError
from opsd_core.records.tables import ragged, read_table, write_table

SCHEMA_VERSION = 1
_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("sample_index", pa.int32()),
        ("teacher_prompt_length", pa.int32()),
        ("topk_ids", pa.list_(pa.int32())),
        ("topk_logprobs", pa.list_(pa.float32())),
        ("tail_logprob", pa.list_(pa.float32())),
        ("sampled_logprob", pa.list_(pa.float32())),
        ("entropy", pa.list_(pa.float32())),
    ],
    metadata={"opsd.schema": "targets", "opsd.schema_version": str(SCHEMA_VERSION)},
)
_MERGED_SCHEMA = _SCHEMA.append(pa.field("stop_layout", pa.list_(pa.int32()))).with_metadata(
    {"opsd.schema": "targets", "opsd.schema_version": str(SCHEMA_VERSION + 1)}
)
"""Of targets whose end tokens were merged. Where none were, the bytes are what they were before there were any."""


@dataclass(frozen=True)
class Target:
    """The teacher's distribution along one completion of T tokens."""

    example_id: str
    sample_index: int
    teacher_prompt_length: int
    topk_ids_TK: np.ndarray
    topk_logprobs_TK: np.ndarray
    tail_logprob_T: np.ndarray
    sampled_logprob_T: np.ndarray
    entropy_T: np.ndarray
    stop_layout: tuple[int, ...] = ()
    """`Stops.layout` of the end tokens that are merged in these entries (opsd_core/objective/stops.py); empty = none."""

    @property
    def key(self) -> tuple[str, int]:
        return (self.example_id, self.sample_index)


def write_targets(path: Path, targets: Sequence[Target]) -> None:
    """Write a shard's targets; equal targets give equal bytes."""
    columns = {
        "example_id": [t.example_id for t in targets],
        "sample_index": [t.sample_index for t in targets],
        "teacher_prompt_length": [t.teacher_prompt_length for t in targets],
        "topk_ids": [t.topk_ids_TK.ravel() for t in targets],
        "topk_logprobs": [t.topk_logprobs_TK.ravel() for t in targets],
        "tail_logprob": [t.tail_logprob_T for t in targets],
        "sampled_logprob": [t.sampled_logprob_T for t in targets],
        "entropy": [t.entropy_T for t in targets],
    }
    merged = any(t.stop_layout for t in targets)
    if merged:
        columns["stop_layout"] = [list(t.stop_layout) for t in targets]
    write_table(path, columns, _MERGED_SCHEMA if merged else _SCHEMA)


def read_targets(path: Path) -> list[Target]:
    """Read a shard's targets. IntegrityError when the file is not one of this schema version."""
    table, targets = read_table(path, _SCHEMA, _MERGED_SCHEMA), []
    merged = "stop_layout" in table.column_names
    layouts = table["stop_layout"].to_pylist() if merged else [()] * len(table)
    topk_ids, topk_logprobs = ragged(table["topk_ids"], np.int32), ragged(table["topk_logprobs"], np.float32)
    per_token = {name: ragged(table[name], np.float32) for name in ("tail_logprob", "sampled_logprob", "entropy")}
    plain = ("example_id", "sample_index", "teacher_prompt_length")
    for index, row in enumerate(table.select(plain).to_pylist()):
        length, entries = len(per_token["tail_logprob"][index]), len(topk_ids[index])
        if length == 0 or entries % length or entries != len(topk_logprobs[index]):
            raise IntegrityError(
                f"{path.name}: target {row['example_id']} has columns that do not fit its {length} positions."
            )
        targets.append(
            Target(
                **row,
                **{f"{name}_T": values[index] for name, values in per_token.items()},
                topk_ids_TK=topk_ids[index].reshape(length, -1),
                topk_logprobs_TK=topk_logprobs[index].reshape(length, -1),
                stop_layout=tuple(layouts[index]),
            )
        )
    return targets
