"""Training items as one safetensors file: columns end to end, read without a copy by every process of a machine.

T = tokens of one item, K = recorded entries of a target
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from opsd_core.records.targets import Target
from opsd_core.training.items import TrainingItem

_IDS = ("prompt_ids", "teacher_prompt_ids", "completion_ids")
_TOKENS = ("rollout_logprobs_T", "weights_T", "rollout_entropy_T", "advantages_T")
_TARGET = ("topk_ids_TK", "topk_logprobs_TK", "tail_logprob_T", "sampled_logprob_T", "entropy_T")


def write_items(path: Path, items: Sequence[TrainingItem], rows: Iterable[int]) -> None:
    """Write `items[row]` for the `rows` that are trained on; the others keep their place and cost nothing."""
    kept = sorted(set(rows))
    columns: dict[str, list[np.ndarray]] = {}
    facts: list[dict[str, Any]] = []
    for row in kept:
        item = items[row]
        for name in _IDS:
            columns.setdefault(name, []).append(np.asarray(getattr(item, name), np.int32))
        for name in _TOKENS:
            if getattr(item, name) is not None:
                columns.setdefault(name, []).append(np.asarray(getattr(item, name)))
        fact: dict[str, Any] = {"row": row, "key": list(item.key), "has": [n for n in _TOKENS if getattr(item, n) is not None]}
        if item.target is not None:
            for name in _TARGET:
                columns.setdefault(f"target.{name}", []).append(np.asarray(getattr(item.target, name)))
            target = item.target
            fact["target"] = [target.example_id, target.sample_index, target.teacher_prompt_length, list(target.stop_layout)]
            fact["width"] = int(target.topk_ids_TK.shape[1])
        facts.append(fact | {"lengths": [len(getattr(item, name)) for name in _IDS]})
    tensors = {name: torch.from_numpy(np.concatenate([part.ravel() for part in parts])) for name, parts in columns.items()}
    save_file(tensors, path, metadata={"items": json.dumps({"size": len(items), "facts": facts})})


class StoredItems(Sequence[TrainingItem]):
    """The items of a file in their places; those that were left out cannot be asked for."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            known = json.loads(file.metadata()["items"])
            self._columns = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118  (no mapping)
        self._size: int = known["size"]
        self._facts: dict[int, tuple[dict[str, Any], dict[str, int]]] = {}
        at = dict.fromkeys(self._columns, 0)
        for fact in known["facts"]:
            self._facts[fact["row"]] = (fact, dict(at))
            for name, length in _lengths(fact).items():
                at[name] += length

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, row: int) -> TrainingItem: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[TrainingItem]: ...
    def __getitem__(self, row: int | slice) -> TrainingItem | Sequence[TrainingItem]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        fact, at = self._facts[row]
        lengths = _lengths(fact)
        column = {name: self._columns[name][at[name] : at[name] + length] for name, length in lengths.items()}
        target = None
        if "target" in fact:
            example_id, sample_index, prompt_length, layout = fact["target"]
            wide = {name: column[f"target.{name}"] for name in _TARGET}
            wide |= {name: wide[name].reshape(lengths["completion_ids"], fact["width"]) for name in _TARGET[:2]}
            target = Target(example_id, sample_index, prompt_length, *wide.values(), stop_layout=tuple(layout))
        return TrainingItem(
            **{name: column[name].tolist() for name in _IDS},
            **{name: column[name] for name in fact["has"]},
            target=target,
            key=(fact["key"][0], fact["key"][1]),
        )


def _lengths(fact: dict[str, Any]) -> dict[str, int]:
    """Numbers of one item in each column."""
    lengths = dict(zip(_IDS, fact["lengths"], strict=True))
    num_tokens = fact["lengths"][-1]
    lengths |= dict.fromkeys(fact["has"], num_tokens)
    if "target" in fact:
        lengths |= {f"target.{name}": num_tokens * (fact["width"] if name.endswith("_TK") else 1) for name in _TARGET}
    return lengths
