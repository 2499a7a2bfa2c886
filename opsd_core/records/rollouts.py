"""Rollouts on disk: one Parquet file per shard, typed and versioned.

A rollout is one prompt, one completion (sampled, or the reference text) and the policy's distribution at each of its
positions. List columns hold one value per completion token; `topk_ids` and `topk_logprobs` are flattened rows of K entries.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from opsd_core.errors import IntegrityError
from opsd_core.records.keys import Key, Keys
from opsd_core.records.spool import Codec, Spooled, array_text, text_array
from opsd_core.records.stored import Chosen, Stored
from opsd_core.records.tables import batches_of, parts_of, ragged, write_parts

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
_PER_TOKEN = ("sampling_logprobs", "logprobs", "tail_mass", "entropy")
_LIGHT = tuple(name for name in _SCHEMA.names if not name.startswith("topk"))


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
    def key(self) -> Key:
        """Identity within an iteration."""
        return (self.example_id, self.sample_index)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


def write_rollouts(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Write a shard, a few rollouts at a time; equal rollouts give equal bytes."""
    write_parts(path, map(_columns, parts_of(rollouts)), _SCHEMA)


def _columns(rollouts: Sequence[Rollout]) -> dict[str, list]:
    return {
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


def read_rollouts(path: Path) -> list[Rollout]:
    """Read a shard whole. IntegrityError when it is not a rollout file of this schema version or its lengths disagree."""
    return [rollout for batch in batches_of(path, [_SCHEMA]) for rollout in _rollouts(batch, path.name)]


class StoredRollouts(Stored[Rollout]):
    """Rollouts of several shards, read a row group at a time; errors as `read_rollouts`.

    With `light` the top-k entries, nine tenths of the bytes, stay unread: `topk_ids_TK` and `topk_logprobs_TK` have no entries.
    """

    def __init__(self, paths: Sequence[Path], folder: Path | None = None, *, light: bool = False) -> None:
        super().__init__(paths, [_SCHEMA], _rollouts, _LIGHT if light else None)
        self.folder = folder

    @property
    def light(self) -> "StoredRollouts":
        """The same without top-k entries."""
        return StoredRollouts(self.paths, self.folder, light=True)

    def of(self, source: str) -> Chosen[Rollout]:
        """Those of one source."""
        found = [part["source"].to_numpy(zero_copy_only=False) == source for part in self.batches(["source"])]
        return Chosen(self, np.flatnonzero(np.concatenate([np.empty(0, bool), *found])))

    def keys(self) -> Keys:
        """Which completions these are."""
        parts = self.batches(["example_id", "sample_index"])
        return Keys((part["example_id"].to_pylist(), part["sample_index"].to_numpy()) for part in parts)

    def lengths(self) -> np.ndarray:
        """Tokens of each completion: (rollouts,)."""
        parts = [part["completion_ids"].value_lengths().to_numpy() for part in self.batches(["completion_ids"])]
        return np.concatenate([np.empty(0, np.int32), *parts])

    def entropies(self) -> Iterator[np.ndarray]:
        """Nats along the completions, some completions at a time."""
        return (np.array(part["entropy"].flatten(), np.float32) for part in self.batches(["entropy"]))


def light_of(rollouts: Sequence[Rollout]) -> Sequence[Rollout]:
    """The same, of stored ones without their top-k entries."""
    return rollouts.light if isinstance(rollouts, StoredRollouts) else rollouts


def entries_of(rollouts: Sequence[Rollout]) -> np.ndarray:
    """How many top-k entries each completion has, all positions together: (rollouts,)."""
    if not isinstance(rollouts, StoredRollouts):
        return np.array([rollout.topk_ids_TK.size for rollout in rollouts], np.int64)
    parts = [part["topk_ids"].value_lengths().to_numpy() for part in rollouts.batches(["topk_ids"])]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _rollouts(batch: pa.RecordBatch, name: str) -> list[Rollout]:
    per_token = {column: ragged(batch[column], np.float32) for column in _PER_TOKEN}
    heavy, rollouts = "topk_ids" in batch.schema.names, []
    topk_ids = ragged(batch["topk_ids"], np.int32) if heavy else [np.empty(0, np.int32)] * len(batch)
    topk_logprobs = ragged(batch["topk_logprobs"], np.float32) if heavy else [np.empty(0, np.float32)] * len(batch)
    plain = ("example_id", "sample_index", "seed", "prompt_ids", "completion_ids", "completion_text", "finish_reason", "source")
    for index, row in enumerate(batch.select(plain).to_pylist()):
        length = len(row["completion_ids"])
        entries = len(topk_ids[index]) // max(length, 1)
        per_entry = (topk_ids[index], topk_logprobs[index])
        if any(len(v[index]) != length for v in per_token.values()) or any(len(v) != length * entries for v in per_entry):
            raise IntegrityError(f"{name}: rollout {row['example_id']} has columns of unequal length; the file is damaged.")
        rollouts.append(
            Rollout(
                **row,
                **{f"{column}_T": values[index] for column, values in per_token.items()},
                topk_ids_TK=topk_ids[index].reshape(length, entries),
                topk_logprobs_TK=topk_logprobs[index].reshape(length, entries),
            )
        )
    return rollouts


def _encode(rollout: Rollout) -> list:
    texts = (rollout.example_id, rollout.completion_text, rollout.finish_reason, rollout.source)
    columns = [getattr(rollout, f"{column}_T") for column in _PER_TOKEN]
    numbers = [rollout.sample_index, rollout.seed, rollout.topk_ids_TK.shape[1]]
    ids = [rollout.prompt_ids, rollout.completion_ids, rollout.topk_ids_TK]
    return [numbers, *map(text_array, texts), *ids, rollout.topk_logprobs_TK, *columns]


def _decode(arrays: Sequence[np.ndarray]) -> Rollout:
    (sample, seed, entries), (example_id, text, finish, source) = arrays[0].tolist(), map(array_text, arrays[1:5])
    prompt, completion, topk_ids, topk_logprobs, *columns = arrays[5:]
    return Rollout(
        example_id, sample, seed, prompt.tolist(), completion.tolist(), text, finish,
        topk_ids_TK=topk_ids.reshape(len(completion), entries),
        topk_logprobs_TK=topk_logprobs.reshape(len(completion), entries),
        source=source,
        **{f"{name}_T": values for name, values in zip(_PER_TOKEN, columns, strict=True)},
    )  # fmt: skip


ROLLOUTS: Codec[Rollout] = Codec(("<i8", *["|u1"] * 4, *["<i4"] * 3, *["<f4"] * 5), _encode, _decode)


def spooled_rollouts(rollouts: Sequence[Rollout], folder: Path) -> Spooled[Rollout]:
    """The rollouts uncompressed on disk, for a stage that asks for each of them in an order of its own."""
    spooled = Spooled(len(rollouts), ROLLOUTS, folder)
    for number, rollout in enumerate(rollouts):
        spooled[number] = rollout
    return spooled
