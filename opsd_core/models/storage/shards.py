"""Tensors as safetensors files of a bounded size: one file, or several with an index as on public hubs.

    name.safetensors                                        up to the limit
    name-00001-of-00003.safetensors, ...                    above it, with
    name.safetensors.index.json                             tensor -> file

Tensors are taken one by one, so that beside them at most one file's worth is in memory.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

MAX_BYTES = 5_000_000_000
"""Of one file, if no tensor alone has more."""


def save_shards(
    tensors: Iterable[tuple[str, Tensor]],
    folder: Path,
    stem: str,
    *,
    max_bytes: int = MAX_BYTES,
    metadata: dict[str, str] | None = None,
    writes: bool = True,
) -> None:
    """Write `tensors`, which share no memory, in their order. Without `writes` they are only asked for."""
    held: dict[str, Tensor] = {}
    files: list[list[str]] = []
    size = total = 0

    def flush() -> None:
        nonlocal size
        if writes:
            save_file(held, _part(folder, stem, len(files)), metadata=metadata)
        files.append(list(held))
        held.clear()
        size = 0

    for name, tensor in tensors:
        if held and size + tensor.nbytes > max_bytes:
            flush()
        held[name] = tensor if writes else tensor.new_empty(0)
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    if writes:
        _name(folder, stem, files, total)


def _part(folder: Path, stem: str, number: int) -> Path:
    return folder / f"{stem}.{number}.part"


def _name(folder: Path, stem: str, files: list[list[str]], total: int) -> None:
    """The final names, which say how many files there are."""
    if len(files) == 1:
        _part(folder, stem, 0).replace(folder / f"{stem}.safetensors")
        return
    listed: dict[str, str] = {}
    for number, names in enumerate(files):
        final = f"{stem}-{number + 1:05d}-of-{len(files):05d}.safetensors"
        _part(folder, stem, number).replace(folder / final)
        listed |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(listed.items()))}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def load_shards(folder: Path, stem: str) -> dict[str, Tensor]:
    """What `save_shards` wrote, memory-mapped. OSError, ValueError, KeyError or SafetensorError when something is missing."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        return load_file(folder / f"{stem}.safetensors")
    listed: dict[str, str] = json.loads(index.read_text())["weight_map"]
    files = {name: load_file(folder / Path(name).name) for name in sorted(set(listed.values()))}
    return {name: files[file][name] for name, file in listed.items()}
