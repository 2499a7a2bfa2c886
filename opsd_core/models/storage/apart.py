"""A policy with adapters as a folder of the adapter's size, and the whole folder that stands for it.

Who samples, scores, evaluates and serves reads the whole folder. It is put together from base and adapter with the same bits
wherever that is done (`models.merging`), and compared with the digest that was recorded when the adapter was trained.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from safetensors import safe_open

from opsd_core.digest import digest, file_digest
from opsd_core.errors import IntegrityError
from opsd_core.mlmodel import MLMODEL_NAME, write_mlmodel
from opsd_core.models.merging import merges_exactly
from opsd_core.models.storage.adapter_folders import save_factors, with_adapter
from opsd_core.models.storage.loading import load_model
from opsd_core.models.storage.saving import save_policy, save_weights
from opsd_core.models.storage.serving import Serving
from opsd_core.models.storage.verify import verify_stored
from opsd_core.models.types import Policy
from opsd_core.records.apart import CONFIG, REST, WEIGHTS, Apart

_ALWAYS = ("config.json", "generation_config.json")
"""Kept with the adapter even where the base has the same: they are asked for alone."""
_OPTIONS: dict[str, Any] = {"revision": None, "trust_remote_code": False}


class StoredBase(NamedTuple):
    """The model below the adapters."""

    folder: Path
    """Whole, on this machine."""
    address: str
    """Below the root of the store."""
    digest: str


def can_be_apart(policy: Policy, trust_remote_code: bool) -> bool:
    """Whether base and adapter give the policy again with the same bits; a model with code of its own is kept whole."""
    return isinstance(policy.model, PeftModel) and merges_exactly(policy.model) and not trust_remote_code


def keep_apart(policy: Policy, base: StoredBase, serving: Serving, folder: Path, whole: Path) -> Apart:
    """Write the policy's adapter and its record into `folder`, and the whole folder that stands for it into `whole`.

    IntegrityError when the whole folder's logits are not the policy's (`verify_stored`).
    """
    dtype = next(p for n, p in policy.causal_lm.named_parameters() if p.is_floating_point() and "lora_" not in n).dtype
    save_factors(policy, folder, serving.base or base.address)
    (folder / "README.md").unlink(missing_ok=True)  # peft's, without a word of this model
    merged = Policy(_with(base.folder, folder, dtype), policy.tokenizer)
    save_policy(merged, whole, serving)
    del merged
    verify_stored(policy, whole)
    files = {name: file_digest(whole / name) for name in _others(whole)}
    for name, sha256 in files.items():
        held = base.folder / name
        if name in _ALWAYS or not held.is_file() or file_digest(held) != sha256:
            _copy(whole / name, folder / REST / name)
    write_mlmodel(whole)
    adapter = {name: file_digest(folder / name) for name in (CONFIG, WEIGHTS)}
    record = Apart(base.address, base.digest, str(dtype).removeprefix("torch."), adapter, _weights_digest(whole), files)
    record.write(folder)
    return record


def put_together(folder: Path, base: Path, whole: Path) -> None:
    """Write the whole folder of an adapter folder and its base. IntegrityError when it is not, to the bit, what was trained."""
    record = Apart.read(folder)
    for name, sha256 in record.adapter.items():
        _expect(folder / name, sha256)
    for name, sha256 in record.files.items():
        held = folder / REST / name
        _copy(held if held.is_file() else base / name, whole / name)
        _expect(whole / name, sha256)
    save_weights(_with(base, folder, getattr(torch, record.dtype)), whole)
    if _weights_digest(whole) != record.weights:
        raise IntegrityError(
            f"{folder} and its base {base} do not give the weights that were recorded when the adapter was trained. Another "
            "version of transformers or peft may read one of them differently: use those in environment.json of the campaign."
        )
    write_mlmodel(whole)


def _with(base: Path, adapter: Path, dtype: torch.dtype) -> PeftModel:
    return with_adapter(load_model(str(base), _OPTIONS, dtype), str(adapter), _OPTIONS).eval()


def _others(whole: Path) -> list[str]:
    """Names of the files that hold no weights."""
    found = (path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    return sorted(name for name in found if ".safetensors" not in name and name != MLMODEL_NAME)


def _weights_digest(whole: Path) -> str:
    """Of names, dtypes, shapes and bits of all tensors, however they are spread over files."""
    found: dict[str, list[Any]] = {}
    for path in sorted(whole.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                tensor = file.get_tensor(name)
                bits = hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy()).hexdigest()
                found[name] = [str(tensor.dtype), list(tensor.shape), bits]
    return digest(found)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        raise IntegrityError(f"{source} is missing, so the model that it is a part of cannot be put together.")
    shutil.copyfile(source, target)


def _expect(path: Path, sha256: str) -> None:
    if not path.is_file() or file_digest(path) != sha256:
        raise IntegrityError(f"{path} is not the file that was recorded (sha256 {sha256}), so the model is not put together.")
