"""Many completions by (example id, sample index), without an object for each: about 30 bytes a key."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np

from opsd_core.records.tables import parts_of

Key = tuple[str, int]
"""A completion within an iteration: example id and sample index."""
Value = TypeVar("Value")


class Keys:
    """Keys in their order, found by a binary search. Of equal ones the last is found."""

    def __init__(self, parts: Iterable[tuple[list[str], Iterable[int]]]) -> None:
        ids, samples = [np.empty(0, "S1")], [np.empty(0, ">u4")]
        for names, numbers in parts:
            ids.append(np.array([name.encode("utf-8", "surrogatepass") for name in names], "S"))
            samples.append(np.asarray(list(numbers), ">u4"))
        self._put(np.concatenate(ids), np.concatenate(samples).astype(">u4"))

    def _put(self, ids: np.ndarray, samples: np.ndarray) -> None:
        self._width, size = ids.dtype.itemsize, len(ids)
        raw = np.zeros((size, self._width + 4), np.uint8)
        raw[:, : self._width] = ids.view(np.uint8).reshape(size, self._width)
        raw[:, self._width :] = samples.view(np.uint8).reshape(size, 4)
        keys = raw.view(f"S{self._width + 4}").reshape(size)
        self.order = np.argsort(keys, kind="stable").astype(np.uint32)
        """Numbers of the keys, sorted as pairs are: (size,)."""
        self._keys, self._sorted = raw, keys[self.order]

    @classmethod
    def of(cls, keys: Iterable[Key]) -> "Keys":
        """Of pairs."""
        return cls(([name for name, _ in part], [number for _, number in part]) for part in parts_of(keys, 512))

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, number: int) -> Key:
        row = self._keys[number]
        name = row[: self._width].tobytes().rstrip(b"\0").decode("utf-8", "surrogatepass")
        return name, int.from_bytes(row[self._width :].tobytes(), "big")

    def __iter__(self) -> Iterator[Key]:
        return (self[number] for number in range(len(self)))

    def find(self, key: Key) -> int:
        """The number of a key, -1 where it is not there."""
        name = key[0].encode("utf-8", "surrogatepass")
        if len(name) > self._width:
            return -1
        wanted = (name.ljust(self._width, b"\0") + int(key[1]).to_bytes(4, "big")).rstrip(b"\0")
        place = int(np.searchsorted(self._sorted, np.bytes_(wanted), "right")) - 1
        return int(self.order[place]) if place >= 0 and self._sorted[place] == wanted else -1

    def places_in(self, others: "Keys") -> np.ndarray:
        """Of each key its number among `others`, -1 where it is not there: (size,)."""
        if not len(others):
            return np.full(len(self), -1, np.int64)
        width = max(self._width, others._width)
        own, sorted_others = _wider(self._keys, width), _wider(others._keys, width)[others.order]
        places = np.searchsorted(sorted_others, own, "right").astype(np.int64) - 1
        found = (places >= 0) & (sorted_others[places] == own)
        return np.where(found, others.order[places].astype(np.int64), -1)

    @property
    def grouped(self) -> bool:
        """Whether the keys of an example stand together."""
        ids = self._keys[:, : self._width]
        changes = int((ids[1:] != ids[:-1]).any(1).sum())
        ordered = self._sorted.view(np.uint8).reshape(len(self), -1)[:, : self._width] if len(self) else ids
        return changes == int((ordered[1:] != ordered[:-1]).any(1).sum())


def _wider(keys: np.ndarray, width: int) -> np.ndarray:
    """Rows of bytes as keys whose ids take up `width` bytes."""
    raw = np.zeros((len(keys), width + 4), np.uint8)
    raw[:, : keys.shape[1] - 4], raw[:, width:] = keys[:, :-4], keys[:, -4:]
    return raw.view(f"S{width + 4}").reshape(len(keys))


class ByKey(Mapping[Key, Value]):
    """What `value` says of the number of each key for which `holds` is true; None = of all."""

    def __init__(self, keys: Keys, value: Callable[[int], Value], holds: np.ndarray | None = None) -> None:
        self._keys, self._value, self._holds = keys, value, holds

    def __getitem__(self, key: Key) -> Value:
        number = self._keys.find(key)
        if number < 0 or (self._holds is not None and not self._holds[number]):
            raise KeyError(key)
        return self._value(number)

    def __iter__(self) -> Iterator[Key]:
        return (self._keys[number] for number in range(len(self._keys)) if self._holds is None or self._holds[number])

    def __len__(self) -> int:
        return len(self._keys) if self._holds is None else int(self._holds.sum())
