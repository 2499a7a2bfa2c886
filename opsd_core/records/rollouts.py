"""Rollouts on disk: one Parquet file per shard, typed and versioned.

A rollout is one prompt, one completion (sampled, or the reference text) and the policy's distribution at each of its
positions. List columns hold one value per completion token; `topk_ids` and `topk_logprobs` are flattened rows of K entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from opsd_core.errors import IntegrityError
from opsd_core.records.tables import ragged, read_table, write_table

SCHEMA_VERSION = 2
_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("sample_index", pa.int32()),
        ("seed", pa.int64()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("completion_ids", pa.list_(pa.int32())),
        ("completion_text", pa.string()),
        ("finish_reason", pa.string()),
        ("sampling_logprobs", pa.list_(pa.float32())),
        ("logprobs", pa.list_(pa.float32())),
        ("topk_ids", pa.list_(pa.int32())),
        ("topk_logprobs", pa.list_(pa.float32())),
        ("tail_mass", pa.list_(pa.float32())),
        ("entropy", pa.list_(pa.float32())),
        ("source", pa.string()),
    ],
    metadata={"opsd.schema": "rollouts", "opsd.schema_version": str(SCHEMA_VERSION)},
)

Key = tuple[str, int]
"""A completion within an iteration: example id and sample index."""


@dataclass(frozen=True)
class Rollout:
    """One prompt and one completion of T tokens with the policy's distribution, K entries kept per position."""

    example_id: str
    sample_index: int
    seed: int
    prompt_ids: list[int]
    completion_ids: list[int]
    completion_text: str
    finish_reason: str
    sampling_logprobs_T: np.ndarray
    logprobs_T: np.ndarray
    topk_ids_TK: np.ndarray
    topk_logprobs_TK: np.ndarray
    tail_mass_T: np.ndarray
    entropy_T: np.ndarray
    source: Literal["policy", "reference"] = "policy"
    """reference: the data set's text stands here; `sampling_logprobs_T` is nan, the rest the policy's view of that text."""

    @property
    def key(self) -> tuple[str, int]:
        """Identity within an iteration."""
        return (self.example_id, self.sample_index)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


def write_rollouts(path: Path, rollouts: Sequence[Rollout]) -> None:
    """Write a shard; equal rollouts give equal bytes."""
    columns = {
        "example_id": [r.example_id for r in rollouts],
        "sample_index": [r.sample_index for r in rollouts],
        "seed": [r.seed for r in rollouts],
        "prompt_ids": [r.prompt_ids for r in rollouts],
        "completion_ids": [r.completion_ids for r in rollouts],
        "completion_text": [r.completion_text for r in rollouts],
        "finish_reason": [r.finish_reason for r in rollouts],
        "sampling_logprobs": [r.sampling_logprobs_T for r in rollouts],
        "logprobs": [r.logprobs_T for r in rollouts],
        "topk_ids": [r.topk_ids_TK.ravel() for r in rollouts],
        "topk_logprobs": [r.topk_logprobs_TK.ravel() for r in rollouts],
        "tail_mass": [r.tail_mass_T for r in rollouts],
        "entropy": [r.entropy_T for r in rollouts],
        "source": [r.source for r in rollouts],
    }
    write_table(path, columns, _SCHEMA)


def read_rollouts(path: Path) -> list[Rollout]:
    """Read a shard. IntegrityError when it is not a rollout file of this schema version or its lengths disagree."""
    table, rollouts = read_table(path, _SCHEMA), []
    per_token = {name: ragged(table[name], np.float32) for name in ("sampling_logprobs", "logprobs", "tail_mass", "entropy")}
    topk_ids, topk_logprobs = ragged(table["topk_ids"], np.int32), ragged(table["topk_logprobs"], np.float32)
    plain = ("example_id", "sample_index", "seed", "prompt_ids", "completion_ids", "completion_text", "finish_reason", "source")
    for index, row in enumerate(table.select(plain).to_pylist()):
        length = len(row["completion_ids"])
        if any(len(values[index]) != length for values in per_token.values()):
            raise IntegrityError(
                f"{path.name}: rollout {row['example_id']} has columns of unequal length; the file is damaged."
            )
        rollouts.append(
            Rollout(
                **row,
                **{f"{name}_T": values[index] for name, values in per_token.items()},
                topk_ids_TK=topk_ids[index].reshape(length, -1),
                topk_logprobs_TK=topk_logprobs[index].reshape(length, -1),
            )
        )
    return rollouts
