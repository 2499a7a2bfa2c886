"""A model folder's files before anything is read into memory: each failure names the file and, where there is one, the tensor."""

import json
import struct
from pathlib import Path
from typing import Any

from opsd_core.errors import ModelError

_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_HEADER = 100_000_000


def check_folder(folder: Path) -> None:
    """ModelError when a file of the folder is a pointer, torn, or does not hold what the index says; else nothing."""
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model.source={str(folder)!r} holds no config.json (nor adapter_config.json). Give the folder that save_pretrained "
            f"wrote; it holds {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}."
        )
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ModelError(
                    f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in {folder}, or download it again."
                )
        if path.suffix == ".json":
            read_json(path)
    tensors = {path.name: tensor_names(path) for path in sorted(folder.glob("*.safetensors"))}
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_index(index, tensors)
    if (folder / "config.json").is_file():
        check_not_quantised(read_json(folder / "config.json"), str(folder))


def read_json(path: Path) -> Any:
    """The file's value. ModelError when it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no valid JSON: {error}. Is it cut off? Download or write it again.") from error


def tensor_names(path: Path) -> set[str]:
    """Names of a safetensors file's tensors. ModelError when its header is damaged or its length is not what that says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise ModelError(
                f"{path} is no safetensors file: its {size} bytes hold no complete header. It is cut off or of another format; "
                "download or write it again."
            )
        raw = file.read(length)
    try:
        header = json.loads(raw)
        ends = {name: int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(
            f"{path}: its safetensors header cannot be read ({type(error).__name__}). Download or write it again."
        ) from error
    data = size - 8 - length
    if ends and max(ends.values()) != data:
        beyond = sorted((name for name, end in ends.items() if end > data), key=lambda name: (ends[name], name))
        what = f"is cut off: tensor {beyond[0]!r} ends behind it" if beyond else "has bytes that belong to no tensor"
        raise ModelError(
            f"{path} {what} (its header promises {max(ends.values())} bytes of data, it has {data}). Download or write it again."
        )
    return set(ends)


def _check_index(index: Path, tensors: dict[str, set[str]]) -> None:
    listed = read_json(index).get("weight_map", {})
    for name, file in sorted(listed.items()):
        if file not in tensors:
            raise ModelError(
                f"{index.parent / file} does not exist, but {index.name} says that it holds {name!r}. Add the shard."
            )
        if name not in tensors[file]:
            raise ModelError(
                f"{index.parent / file} does not hold {name!r}, although {index.name} says so. The shards belong to different "
                "models, or one was written over: download or write all of them again."
            )


def check_not_quantised(config: dict[str, Any], source: str) -> None:
    """ModelError when config.json says that the weights are stored quantised."""
    nested = config.get("text_config")
    found = config.get("quantization_config") or (isinstance(nested, dict) and nested.get("quantization_config"))
    if found:
        method = found.get("quant_method") if isinstance(found, dict) else None
        bits = [name for name in ("load_in_4bit", "load_in_8bit") if isinstance(found, dict) and found.get(name)]
        name = method or ("bitsandbytes" if bits else "unknown")
        raise ModelError(
            f"model.source={source!r} is quantised ({name}; quantization_config in config.json): such weights cannot be trained "
            "or compared. Give the model that it was made from, or dequantise it and save it in bfloat16."
        )
