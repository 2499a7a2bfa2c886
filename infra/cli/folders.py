"""Registered versions as folders on this machine: verified copies, adapters, GGUF files."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from infra.cli.names import Named, number_of, registry
from opsd_core.digest import file_digest
from opsd_core.errors import ConfigError, IntegrityError, OpsdError, ServiceError
from tasks.runtime.settings import load_settings
from tasks.storage.apart import whole_folder
from tasks.storage.artifacts import describe
from tasks.storage.s3 import open_store
from tasks.tracking import Tracker, Version

CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
"""Programs of llama.cpp, the newer name first."""


class Kept(NamedTuple):
    """A version and its verified folder in the cache; to be read only."""

    version: Version
    folder: Path


def kept(asked: Named) -> Kept:
    """The version's folder as it is served, every byte verified. ConfigError without such a version."""
    tracker = registry()
    number = number_of(asked, "champion")
    version, settings = tracker.get_version(asked.name, number or 0), load_settings()
    return Kept(version, whole_folder(open_store(settings.store, settings), version.source, settings.cache))


def copied(found: Kept, target: Path) -> list[str]:
    """Copy the folder to `target`, which must not exist or be empty, and verify the copy; the names of its files."""
    names = sorted(path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file())
    with new_folder(target, "--to") as folder:
        shutil.copytree(found.folder, folder, dirs_exist_ok=True)
        for name in names:
            if file_digest(folder / name) != file_digest(found.folder / name):
                raise IntegrityError(f"{folder / name} differs from {found.folder / name}. Is the disk sound? Export again.")
    return names


@contextmanager
def new_folder(target: Path, option: str) -> Iterator[Path]:
    """A folder that becomes `target` when all is written; ConfigError where that is there and not empty, naming `option`."""
    target = target.absolute()
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"{target} exists and is not an empty folder. Name another one with {option}.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as draft:
            folder = Path(draft) / "new"
            folder.mkdir()
            yield folder
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
            if target.exists():
                target.rmdir()
            folder.rename(target)
    except OpsdError:
        raise
    except OSError as error:
        why = error.strerror or error
        raise ServiceError(f"{target} cannot be written: {why}. Name another folder with {option}.") from error


def adapter(found: Kept, target: Path) -> Path:
    """The trained adapters as a peft folder. ConfigError where the version was trained in full or its start is not registered."""
    import torch

    from opsd_core.config import CampaignConfig
    from opsd_core.config.moved import with_present_names
    from opsd_core.models.policy import add_lora
    from opsd_core.models.storage.adapter_folders import save_adapter
    from opsd_core.training.checkpoint import load_trainable
    from tasks.context import lineage, local, store
    from tasks.loaded import load
    from tasks.refs import PolicyRef

    name, known = found.version.name, lineage(found.version.tags)
    if not known.get("state_uri") or not known.get("config"):
        raise ConfigError(
            f"version {found.version.version} of {name!r} was not trained here, so it has no adapters of its own."
        )
    record = str(known["config"])
    config = CampaignConfig.model_validate(with_present_names(json.loads((local(record) / "config.json").read_text())))
    if not config.model.lora.rank:
        raise ConfigError(f"version {found.version.version} of {name!r} was trained in full (model.lora.rank=0): no adapters.")
    digest = describe(store(), record).identity["initial"]
    starts = [v.tags for v in Tracker().versions(name) if v.tags.get("opsd.model_digest") == digest]
    if not starts:
        raise ConfigError(
            f"the weights that {name!r} was trained from are not registered under it: its adapters fit nothing here."
        )
    base = PolicyRef(uri=starts[0]["opsd.model_uri"], digest=digest)
    student = add_lora(load(base, config.model, torch.float32), config.model.lora, seed=config.seed)
    load_trainable(local(str(known["state_uri"])), student)
    on_a_hub = (
        config.model.source.count("/") == 1 and not Path(config.model.source).exists() and ":" not in config.model.source
    )
    if not on_a_hub:
        shutil.copytree(local(base), target / "base")
    save_adapter(student, target / "adapter", config.model.source if on_a_hub else str((target / "base").absolute()))
    return target / "adapter"


def gguf(folder: Path) -> Path:
    """The folder's model as a GGUF file in it, made by llama.cpp. ConfigError where that is not installed."""
    program = next(filter(None, map(shutil.which, CONVERTERS)), None)
    home = os.environ.get("LLAMA_CPP_HOME")
    if program is None and home and (Path(home) / CONVERTERS[0]).is_file():
        program = str(Path(home) / CONVERTERS[0])
    if program is None:
        raise ConfigError(
            f"--gguf needs llama.cpp's {CONVERTERS[0]}, which is not installed. Clone https://github.com/ggml-org/llama.cpp and "
            f"put that folder on PATH or into LLAMA_CPP_HOME. What is exported so far: {folder}"
        )
    out = folder / "model.gguf"
    done = subprocess.run(
        [sys.executable, program, str(folder), "--outfile", str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode or not out.is_file():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise ServiceError(f"{Path(program).name} could not convert {folder}: {last[0][:300]}")
    return out
