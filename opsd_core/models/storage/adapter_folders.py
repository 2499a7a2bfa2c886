"""Folders of peft adapters: read as base + adapter, written beside a candidate for those who serve adapters."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import PreTrainedModel

from opsd_core.errors import ModelError, OpsdError
from opsd_core.models.adapters import effective_weights, untie
from opsd_core.models.storage.files import check_folder, read_object
from opsd_core.models.storage.headers import Stored, read_header
from opsd_core.models.tokenizers import first_line
from opsd_core.models.types import Policy

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Base(NamedTuple):
    """The model that an adapter was trained on."""

    source: str
    options: dict[str, Any]


def base_of(source: str, options: dict[str, Any]) -> Base | None:
    """The base of an adapter folder or hub id; None where the source is no adapter. ModelError when it names no base."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / _CONFIG).is_file() or (folder / "config.json").is_file():
            return None
        if not (folder / _WEIGHTS).is_file():
            raise ModelError(f"{folder / _WEIGHTS} does not exist, so {folder} is no adapter that can be read.")
        check_folder(folder)
    elif not _hub_adapter(source, options["revision"]):
        return None
    try:
        config = PeftConfig.from_pretrained(source, revision=options["revision"])
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(f"{source}: {_CONFIG} cannot be read: {first_line(error)}.") from error
    name = config.base_model_name_or_path
    if not name or not isinstance(name, str) or "\0" in name:
        raise ModelError(f"{source}: {_CONFIG} names no base_model_name_or_path. Write the base's hub id or path into it.")
    near = folder / name
    path = str(near) if near.is_dir() else str(name)
    if not Path(path).is_dir() and (Path(path).is_absolute() or path.startswith(".")):
        raise ModelError(
            f"{source}: its base {name!r} (base_model_name_or_path in {_CONFIG}) is no folder on this machine. Correct the path."
        )
    return Base(path, options | {"revision": config.revision if not Path(path).is_dir() else None})


def local_base(folder: Path) -> str | None:
    """The folder of an adapter folder's base; None where the source is no adapter folder or its base is on a hub."""
    if not (folder / _CONFIG).is_file() or (folder / "config.json").is_file():
        return None
    base = base_of(str(folder), {"revision": None})
    return base.source if base and Path(base.source).is_dir() else None


def _hub_adapter(source: str, revision: str | None) -> bool:
    try:
        return isinstance(try_to_load_from_cache(source, _CONFIG, revision=revision), str)
    except HFValidationError:
        return False


def with_adapter(model: PreTrainedModel, source: str, options: dict[str, Any]) -> PeftModel:
    """The base with the adapter beside its weights. ModelError when adapter and base do not belong together."""
    if Path(source).is_dir():
        _check_ranks(source, read_header(Path(source) / _WEIGHTS))
        _check_adapter_finite(Path(source) / _WEIGHTS)
    try:
        config = PeftConfig.from_pretrained(source, revision=options["revision"])
        config.base_model_name_or_path = model.name_or_path  # where this machine has it
        wrapped = get_peft_model(model, config)
        report = wrapped.load_adapter(source, "default", revision=options["revision"])
    except (OpsdError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(
            f"{source}: the adapter does not fit its base {type(model).__name__}: {first_line(error)}. Is "
            f"base_model_name_or_path in {_CONFIG} the model that it was trained on?"
        ) from error
    missing = [name for name in report.missing_keys if ".lora_" in name or ".modules_to_save." in name]
    for names, what in ((missing, "is missing, so it would keep a random value"), (report.unexpected_keys, "fits no module")):
        if names:
            raise ModelError(
                f"{source}: adapter tensor {min(names)!r} {what} ({len(names)} in all). Adapter and base "
                "(base_model_name_or_path) do not belong together, or the file was written by an incompatible version of peft."
            )
    return wrapped


@torch.no_grad()
def merge_adapter(model: PreTrainedModel, source: str, options: dict[str, Any]) -> PreTrainedModel:
    """The base with the adapter's share in its weights. ModelError as `with_adapter`."""
    wrapped = with_adapter(model, source, options)
    weights = dict(effective_weights(wrapped))
    plain = wrapped.unload()
    one, other = model.get_input_embeddings(), model.get_output_embeddings()
    if other is not None and one.weight is other.weight:
        names = [f"{name}.weight" for name, module in plain.named_modules() if module is one or module is other]
        if len({weights[name].data_ptr() for name in names}) > 1:
            untie(plain)
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    return plain.requires_grad_(True)


def _check_ranks(source: str, tensors: dict[str, Stored]) -> None:
    """ModelError when adapter_config.json asks for a rank that no tensor has."""
    config = read_object(Path(source) / _CONFIG)
    patterns = config.get("rank_pattern")
    ranks = {"r": config.get("r"), **(patterns if isinstance(patterns, dict) else {})}
    most = max((size for stored in tensors.values() for size in stored.shape), default=0)
    for name, rank in ranks.items():
        if type(rank) is not int or not 0 <= rank <= most:
            raise ModelError(
                f"{source}/{_CONFIG}: rank {name}={rank!r:.60} is not that of the stored adapter, whose longest side is "
                f"{most:,}. The two files belong to different adapters."
            )


def _check_adapter_finite(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
            if not torch.isfinite(file.get_tensor(name)).all():
                raise ModelError(f"{path}: tensor {name!r} holds values that are not finite (NaN or infinity).")


def save_adapter(policy: Policy, folder: Path, base: str) -> None:
    """Write the policy's adapters as a peft folder on the model named `base`. ModelError when it has none."""
    save_factors(policy, folder, base)
    policy.tokenizer.save_pretrained(folder)


def save_factors(policy: Policy, folder: Path, base: str) -> None:
    """`save_adapter` without a tokenizer; the same adapters give the same bytes in every process."""
    if not isinstance(policy.model, PeftModel):
        raise ModelError("the policy has no adapters to write; it was trained in full (model.lora.rank=0).")
    folder.mkdir(parents=True, exist_ok=True)
    for config in policy.model.peft_config.values():
        config.base_model_name_or_path = base
    policy.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    written = read_object(folder / _CONFIG)
    ordered = {name: sorted(value) if isinstance(value, list) else value for name, value in written.items()}  # peft has sets
    (folder / _CONFIG).write_text(json.dumps(ordered, indent=2, sort_keys=True) + "\n")
