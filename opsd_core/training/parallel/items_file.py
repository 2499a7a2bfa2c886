"""Training items as one safetensors file: their codec's arrays end to end, read without a copy by every process of a machine."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from opsd_core.records.rows import Rows
from opsd_core.training.items import ITEMS, TrainingItem

_ROWS, _LENGTHS, _SIZE = "rows", "lengths", "size"


def write_items(path: Path, items: Sequence[TrainingItem], rows: Iterable[int]) -> None:
    """Write `items[row]` for the `rows` that are trained on; the others keep their place and cost nothing."""
    kept = sorted(set(rows))
    parts = [ITEMS.arrays(items[row]) for row in kept]
    columns = {str(slot): np.concatenate(arrays) for slot, arrays in enumerate(zip(*parts, strict=True))}
    columns[_ROWS] = np.array(kept, np.int64)
    columns[_LENGTHS] = np.array([[len(array) for array in arrays] for arrays in parts], np.int64)
    tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
    save_file(tensors, path, metadata={_SIZE: str(len(items))})


class StoredItems(Rows[TrainingItem]):
    """The items of a file in their places; those that were left out are not there (IndexError)."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            columns = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118  (no mapping)
            self._size = int(file.metadata()[_SIZE])
        lengths = columns[_LENGTHS]
        self._place = {int(row): place for place, row in enumerate(columns[_ROWS])}
        self._ends, self._starts = lengths.cumsum(0), lengths.cumsum(0) - lengths
        self._columns = [columns[str(slot)] for slot in range(len(ITEMS.dtypes))]

    def __len__(self) -> int:
        return self._size

    def _row(self, number: int) -> TrainingItem:
        if (place := self._place.get(number)) is None:
            raise IndexError(f"item {number} of {self._size} was left out: no step trains on it")
        spans = zip(self._columns, self._starts[place], self._ends[place], strict=True)
        return ITEMS.decode([column[start:end] for column, start, end in spans])
