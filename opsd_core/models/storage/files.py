"""A model folder's files before anything is read into memory: each failure names the file and, where there is one, the tensor."""

import json
from pathlib import Path
from typing import Any

from opsd_core.errors import ModelError
from opsd_core.models.storage.headers import Stored, read_header
from opsd_core.models.storage.sizes import check_sizes

_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_JSON_BYTES = 128 << 20
"""A tokenizer.json of 2026 has at most a third of that."""
_READ = (".json", ".safetensors", ".jinja", ".model", ".txt", ".gguf")
_OBJECTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json")


def check_folder(folder: Path) -> dict[str, Stored]:
    """The tensors of a folder. ModelError when one of its files is a pointer, torn, impossible, or not what the index says."""
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model.source={str(folder)!r} holds no config.json (nor adapter_config.json). Give the folder that save_pretrained "
            f"wrote; it holds {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}."
        )
    for path in sorted(folder.iterdir()):
        _check_file(path)
    tensors = {path.name: read_header(path) for path in sorted(folder.glob("*.safetensors"))}
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_index(index, tensors)
    if (folder / "config.json").is_file():
        config = read_object(folder / "config.json")
        check_not_quantised(config, str(folder))
        check_sizes(config, [stored for held in tensors.values() for stored in held.items()], str(folder))
    if (folder / "generation_config.json").is_file():
        _check_ends(folder / "generation_config.json")
    return {name: stored for held in tensors.values() for name, stored in held.items()}


def _check_file(path: Path) -> None:
    if not path.is_file():
        if path.suffix in _READ:
            raise ModelError(
                f"{path} is no plain file (but a folder, a pipe, a device, or a link that leads nowhere), so it is not opened. "
                "Put the file itself in its place."
            )
        return
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    if start == _POINTER:
        raise ModelError(
            f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in {path.parent}, or download it again."
        )
    if path.suffix == ".json":
        if path.name in _OBJECTS or path.name.endswith(".index.json"):
            read_object(path)
        else:
            read_json(path)


def read_json(path: Path) -> Any:
    """The file's value. ModelError when it is no JSON, or too large to be what a model has."""
    try:
        if (size := path.stat().st_size) > _MAX_JSON_BYTES:
            raise ModelError(
                f"{path} has {size:,} bytes, more than {_MAX_JSON_BYTES:,}: no model's settings or vocabulary are that large. It "
                "is damaged or made to fill the memory; download it again."
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ModelError(f"{path} is nested too deeply to be read. Download or write it again.") from error
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no valid JSON: {error}. Is it cut off? Download or write it again.") from error


def read_object(path: Path) -> dict[str, Any]:
    """The file's object. ModelError when it holds another kind of value, and as `read_json`."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__} where an object is needed. Download or write it again.")
    return value


def _check_ends(path: Path) -> None:
    """ModelError when an end token of generation_config.json is no id."""
    value = read_object(path).get("eos_token_id")
    for token in value if isinstance(value, list) else [value]:
        if token is not None and (type(token) is not int or not 0 <= token < 1 << 31):
            raise ModelError(
                f"{path}: eos_token_id={value!r:.80} names no token; it is an id or a list of ids. Correct it, or take "
                "generation_config.json from where the weights are from."
            )


def _check_index(index: Path, tensors: dict[str, dict[str, Stored]]) -> None:
    listed = read_object(index).get("weight_map", {})
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise ModelError(f"{index}: its weight_map does not give each tensor a file. Download or write it again.")
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
