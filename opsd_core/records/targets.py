"""Soft targets on disk: the teacher's distribution at every completion position.

N = completion tokens, K = entries kept
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from opsd_core.errors import IntegrityError
from opsd_core.records.keys import ByKey, Key, Keys
from opsd_core.records.spool import Codec, array_text, text_array
from opsd_core.records.stored import Stored
from opsd_core.records.tables import batches_of, parts_of, ragged, write_parts

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


_PER_TOKEN = ("tail_logprob", "sampled_logprob", "entropy")


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
    def key(self) -> Key:
        return (self.example_id, self.sample_index)


def write_targets(path: Path, targets: Sequence[Target]) -> None:
    """Write a shard's targets, a few at a time; equal targets give equal bytes."""
    merged = any(t.stop_layout for t in targets)
    columns = (_columns(part, merged) for part in parts_of(targets))
    write_parts(path, columns, _MERGED_SCHEMA if merged else _SCHEMA)


def _columns(targets: Sequence[Target], merged: bool) -> dict[str, list]:
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
    return columns | ({"stop_layout": [list(t.stop_layout) for t in targets]} if merged else {})


def read_targets(path: Path) -> list[Target]:
    """Read a shard's targets whole. IntegrityError when the file is not one of this schema version."""
    return [target for batch in batches_of(path, [_SCHEMA, _MERGED_SCHEMA]) for target in _targets(batch, path.name)]


class StoredTargets(Stored[Target]):
    """Targets of several shards, read a row group at a time; errors as `read_targets`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths, [_SCHEMA, _MERGED_SCHEMA], _targets)

    def by_key(self) -> ByKey[Target]:
        """Each completion's target."""
        parts = self.batches(["example_id", "sample_index"])
        keys = Keys((part["example_id"].to_pylist(), part["sample_index"].to_numpy()) for part in parts)
        return ByKey(keys, self.__getitem__)


def _targets(batch: pa.RecordBatch, name: str) -> list[Target]:
    targets, merged = [], "stop_layout" in batch.schema.names
    layouts = batch["stop_layout"].to_pylist() if merged else [()] * len(batch)
    topk_ids, topk_logprobs = ragged(batch["topk_ids"], np.int32), ragged(batch["topk_logprobs"], np.float32)
    per_token = {column: ragged(batch[column], np.float32) for column in _PER_TOKEN}
    plain = ("example_id", "sample_index", "teacher_prompt_length")
    for index, row in enumerate(batch.select(plain).to_pylist()):
        length, entries = len(per_token["tail_logprob"][index]), len(topk_ids[index])
        if length == 0 or entries % length or entries != len(topk_logprobs[index]):
            raise IntegrityError(f"{name}: target {row['example_id']} has columns that do not fit its {length} positions.")
        targets.append(
            Target(
                **row,
                **{f"{column}_T": values[index] for column, values in per_token.items()},
                topk_ids_TK=topk_ids[index].reshape(length, -1),
                topk_logprobs_TK=topk_logprobs[index].reshape(length, -1),
                stop_layout=tuple(layouts[index]),
            )
        )
    return targets


def encode_target(target: Target) -> list:
    """Arrays of `TARGET_DTYPES`."""
    numbers = [target.sample_index, target.teacher_prompt_length, len(target.tail_logprob_T), *target.stop_layout]
    columns = [getattr(target, f"{column}_T") for column in _PER_TOKEN]
    return [text_array(target.example_id), numbers, target.topk_ids_TK, target.topk_logprobs_TK, *columns]


def decode_target(arrays: Sequence[np.ndarray]) -> Target:
    """The target of `encode_target`."""
    name, numbers, topk_ids, topk_logprobs, *columns = arrays
    sample, prompt_length, length, *layout = numbers.tolist()
    return Target(
        array_text(name), sample, prompt_length, topk_ids.reshape(length, -1), topk_logprobs.reshape(length, -1),
        stop_layout=tuple(layout), **{f"{column}_T": values for column, values in zip(_PER_TOKEN, columns, strict=True)},
    )  # fmt: skip


TARGET_DTYPES = ("|u1", "<i4", "<i4", "<f4", "<f4", "<f4", "<f4")
TARGETS: Codec[Target] = Codec(TARGET_DTYPES, encode_target, decode_target)
