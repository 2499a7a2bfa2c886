"""Rollouts on disk: one Parquet file per shard, typed and versioned.

A rollout is one prompt, one completion (sampled, or the reference text) and the policy's distribution at each of its
positions. List columns hold one value per completion token; `topk_ids` and `topk_logprobs` are flattened rows of K entries.

Where an environment answered, the completion is the whole conversation after the prompt, and `sampled` says which tokens the
policy wrote. Only these are its own: at the others nothing is recorded (nan), and nothing may be read.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
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
_TALKED_SCHEMA = pa.schema(
    [*_SCHEMA, ("sampled", pa.list_(pa.bool_())), ("answer_start", pa.int32())],
    metadata={"opsd.schema": "rollouts", "opsd.schema_version": str(SCHEMA_VERSION + 1)},
)
"""Of conversations. Where no environment answers, the bytes are what they were before there was any."""
_SCHEMAS = (_SCHEMA, _TALKED_SCHEMA)
_PER_TOKEN = ("sampling_logprobs", "logprobs", "tail_mass", "entropy")
_LIGHT = tuple(name for name in _TALKED_SCHEMA.names if not name.startswith("topk"))


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
    sampled_T: np.ndarray | None = None
    """bool: whether the policy wrote this token, or an environment. None = no environment took part."""
    answer_start: int = 0
    """Where in `completion_text`, which is what the policy wrote, its last turn begins."""

    @property
    def key(self) -> Key:
        """Identity within an iteration."""
        return (self.example_id, self.sample_index)

    @property
    def truncated(self) -> bool:
        """Whether a limit of tokens or turns ended it."""
        return self.finish_reason in ("length", "turns")

    @property
    def answer_text(self) -> str:
        """The policy's last turn, which is judged."""
        return self.completion_text[self.answer_start :]

    @property
    def num_sampled(self) -> int:
        """Tokens without those of an environment."""
        return len(self.completion_ids) if self.sampled_T is None else int(self.sampled_T.sum())

    @property
    def num_turns(self) -> int:
        """Turns of the policy."""
        return 1 if self.sampled_T is None else int((np.diff(self.sampled_T.astype(np.int8), prepend=0) == 1).sum())

    def own(self, values: np.ndarray) -> np.ndarray:
        """Of one row per completion token (T, ...) those of the policy's tokens."""
        return values if self.sampled_T is None else values[self.sampled_T]


def write_rollouts(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Write a shard, a few rollouts at a time; equal rollouts give equal bytes. Of conversations an iterator begins with one."""
    if isinstance(rollouts, Sequence):
        talked = any(r.sampled_T is not None for r in rollouts)
    else:
        first = list(islice(rollouts := iter(rollouts), 1))
        talked, rollouts = bool(first) and first[0].sampled_T is not None, chain(first, rollouts)
    columns = (_columns(part, talked) for part in parts_of(rollouts))
    write_parts(path, columns, _TALKED_SCHEMA if talked else _SCHEMA)


def _columns(rollouts: Sequence[Rollout], talked: bool = False) -> dict[str, list]:
    assert talked or all(r.sampled_T is None for r in rollouts)
    own = {"sampled": [r.sampled_T for r in rollouts], "answer_start": [r.answer_start for r in rollouts]} if talked else {}
    return own | {
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
    return [rollout for batch in batches_of(path, _SCHEMAS) for rollout in _rollouts(batch, path.name)]


class StoredRollouts(Stored[Rollout]):
    """Rollouts of several shards, read a row group at a time; errors as `read_rollouts`.

    With `light` the top-k entries, nine tenths of the bytes, stay unread: `topk_ids_TK` and `topk_logprobs_TK` have no entries.
    """

    def __init__(self, paths: Sequence[Path], folder: Path | None = None, *, light: bool = False) -> None:
        super().__init__(paths, _SCHEMAS, _rollouts, _LIGHT if light else None)
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
        """Tokens of each completion that are the policy's: (rollouts,)."""
        parts = []
        for part in self.batches(["completion_ids", "sampled"]):
            whole = part["completion_ids"].value_lengths().to_numpy()
            if "sampled" in part.schema.names:
                whole = np.array([n if m is None else m.sum() for n, m in zip(whole, _masks(part), strict=True)], np.int32)
            parts.append(whole)
        return np.concatenate([np.empty(0, np.int32), *parts])

    def entropies(self) -> Iterator[np.ndarray]:
        """Nats along the completions at the policy's tokens, some completions at a time."""
        for part in self.batches(["entropy", "sampled"]):
            if "sampled" not in part.schema.names:
                yield np.array(part["entropy"].flatten(), np.float32)
                continue
            rows = zip(ragged(part["entropy"], np.float32), _masks(part), strict=True)
            yield np.concatenate([np.empty(0, np.float32), *(e if m is None else e[m] for e, m in rows)])


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
    heavy, rollouts, masks = "topk_ids" in batch.schema.names, [], _masks(batch)
    topk_ids = ragged(batch["topk_ids"], np.int32) if heavy else [np.empty(0, np.int32)] * len(batch)
    topk_logprobs = ragged(batch["topk_logprobs"], np.float32) if heavy else [np.empty(0, np.float32)] * len(batch)
    plain = ("example_id", "sample_index", "seed", "prompt_ids", "completion_ids", "completion_text", "finish_reason", "source")
    plain += ("answer_start",) if "answer_start" in batch.schema.names else ()
    for index, row in enumerate(batch.select(plain).to_pylist()):
        length, sampled_T = len(row["completion_ids"]), masks[index]
        entries = len(topk_ids[index]) // max(length, 1)
        per_entry = (topk_ids[index], topk_logprobs[index])
        per_row = [values[index] for values in per_token.values()] + ([] if sampled_T is None else [sampled_T])
        if any(len(values) != length for values in per_row) or any(len(v) != length * entries for v in per_entry):
            raise IntegrityError(f"{name}: rollout {row['example_id']} has columns of unequal length; the file is damaged.")
        rollouts.append(
            Rollout(
                **row,
                **{f"{column}_T": values[index] for column, values in per_token.items()},
                topk_ids_TK=topk_ids[index].reshape(length, entries),
                topk_logprobs_TK=topk_logprobs[index].reshape(length, entries),
                sampled_T=sampled_T,
            )
        )
    return rollouts


def _masks(batch: pa.RecordBatch) -> list[np.ndarray | None]:
    """`sampled_T` of each rollout."""
    if "sampled" not in batch.schema.names:
        return [None] * len(batch)
    column = batch["sampled"]
    there = column.is_valid().to_pylist()
    return [values if valid else None for values, valid in zip(ragged(column, np.bool_), there, strict=True)]


def _encode(rollout: Rollout) -> list:
    texts = (rollout.example_id, rollout.completion_text, rollout.finish_reason, rollout.source)
    columns = [getattr(rollout, f"{column}_T") for column in _PER_TOKEN]
    numbers = [rollout.sample_index, rollout.seed, rollout.topk_ids_TK.shape[1], rollout.answer_start]
    numbers.append(rollout.sampled_T is not None)
    ids = [rollout.prompt_ids, rollout.completion_ids, rollout.topk_ids_TK]
    sampled_T = [] if rollout.sampled_T is None else rollout.sampled_T
    return [numbers, *map(text_array, texts), *ids, rollout.topk_logprobs_TK, *columns, sampled_T]


def _decode(arrays: Sequence[np.ndarray]) -> Rollout:
    (sample, seed, entries, start, talked), (example_id, text, finish, source) = arrays[0].tolist(), map(array_text, arrays[1:5])
    prompt, completion, topk_ids, topk_logprobs, *columns, sampled_T = arrays[5:]
    return Rollout(
        example_id, sample, seed, prompt.tolist(), completion.tolist(), text, finish,
        topk_ids_TK=topk_ids.reshape(len(completion), entries),
        topk_logprobs_TK=topk_logprobs.reshape(len(completion), entries),
        source=source, sampled_T=sampled_T.astype(bool) if talked else None, answer_start=start,
        **{f"{name}_T": values for name, values in zip(_PER_TOKEN, columns, strict=True)},
    )  # fmt: skip


ROLLOUTS: Codec[Rollout] = Codec(("<i8", *["|u1"] * 4, *["<i4"] * 3, *["<f4"] * 5, "|u1"), _encode, _decode)


def spooled_rollouts(rollouts: Sequence[Rollout], folder: Path) -> Spooled[Rollout]:
    """The rollouts uncompressed on disk, for a stage that asks for each of them in an order of its own."""
    spooled = Spooled(len(rollouts), ROLLOUTS, folder)
    for number, rollout in enumerate(rollouts):
        spooled[number] = rollout
    return spooled
