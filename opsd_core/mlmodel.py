"""The MLmodel file in a folder of weights, which lets `mlflow.pyfunc.load_model` read the folder.

It holds no date, random id or library version, so that a folder's digest depends on its weights alone. Under metadata.opsd
stand length and sha256 of every other file of the folder, which the loader compares before it reads one.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from opsd_core.digest import digest, file_digest
from opsd_core.errors import IntegrityError

MLMODEL_NAME = "MLmodel"
LOADER_MODULE = "opsd_core.pyfunc_loader"
DEFAULTS = {"max_completion_length": 256, "temperature": 0.0, "seed": 0, "batch_size": 8}
"""Parameters of `predict`: tokens, sampling temperature (0: greedy), seed of the sampler, prompts per batch."""

_READ = (".json", ".safetensors", ".jinja", ".py", ".model", ".txt")
"""Endings of files that transformers reads when it finds them."""

_TYPES = {int: "long", float: "double"}


def write_mlmodel(folder: Path, loader: str = LOADER_MODULE, judged: str = "generation_config.json") -> None:
    """Write `MLmodel` into a folder with config.json, tokenizer and safetensors, as its last file; the same bytes every time.

    The default length of an answer is that of the file `judged` where it names one. `loader` is the module that MLflow calls.
    """
    defaults = DEFAULTS | _judged_length(folder / judged)
    params = [
        {"name": name, "type": _TYPES[type(value)], "default": value, "shape": None} for name, value in defaults.items()
    ]
    record: dict[str, Any] = {
        "metadata": {"opsd": {"files": _files(folder)}},
        "flavors": {"python_function": {"loader_module": loader}},
        "signature": {
            "inputs": json.dumps([{"type": "string", "required": True}]),  # unnamed: lists and one-column tables
            "outputs": json.dumps([{"type": "string", "required": True}]),
            "params": json.dumps(params),
        },
    }
    record["metadata"]["opsd"]["checksum"] = digest(record)
    (folder / MLMODEL_NAME).write_text(yaml.safe_dump(record, sort_keys=True))


def verify_mlmodel(folder: Path) -> None:
    """IntegrityError naming the first file that is missing, changed or not the model's; folders without a list pass."""
    files = listed_files(folder)
    if files is None:
        return
    present = _files(folder)
    for name, marks in sorted(files.items()):
        if name not in present:
            raise _damaged(folder / name, "it is missing")
        if present[name] != marks:
            raise _damaged(folder / name, f"expected {marks}, actual {present[name]}")
    strange = sorted(name for name in present.keys() - files.keys() if name.endswith(_READ))
    if strange:
        raise _damaged(folder / strange[0], "it is no file of this model, yet would be read with it")


def listed_files(folder: Path) -> dict[str, list[Any]] | None:
    """Name -> [length in bytes, sha256] of what MLmodel lists; None without a list. IntegrityError when it is damaged."""
    path = folder / MLMODEL_NAME
    try:
        record = yaml.safe_load(path.read_bytes()) if path.is_file() else {}
        listed = record.get("metadata", {}).get("opsd")
        if listed is None:
            return None
        checksum, files = listed.pop("checksum"), dict(listed["files"])
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise _damaged(path, f"it cannot be read ({type(error).__name__})") from error
    if any(record.get(name) is None for name in ("flavors", "signature")) or digest(_plain(record)) != checksum:
        raise _damaged(path, "it does not match its own checksum")
    return files


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """What was written: a server may add entries of its own, such as model_uuid."""
    metadata = {"opsd": {"files": record["metadata"]["opsd"]["files"]}}
    return {"metadata": metadata, "flavors": record["flavors"], "signature": record["signature"]}


def _files(folder: Path) -> dict[str, list[Any]]:
    """Name -> [length in bytes, sha256] of every file but MLmodel."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path != folder / MLMODEL_NAME)
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, file_digest(path)] for path in sorted(paths)}


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path}: {why}. The copy is damaged and was not loaded. Download the version again; when that does not help, its stored "
        "bytes are damaged: roll back, or trigger its campaign again."
    )


def _judged_length(path: Path) -> dict[str, int]:
    longest = json.loads(path.read_text()).get("max_new_tokens") if path.is_file() else None
    return {"max_completion_length": int(longest)} if longest else {}
