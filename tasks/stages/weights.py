"""Where a campaign starts: weights in the store, tested against themselves, those that opsd/pretrain promoted first."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.acceptance import accept
from opsd_core.config import CampaignConfig, ModelConfig
from opsd_core.digest import file_digest
from opsd_core.models import tiny
from opsd_core.models.policy import (
    hub_commit,
    load_gguf,
    load_policy,
    resolve_dtype,
    save_policy,
)
from opsd_core.models.smollm2 import smollm2_gguf
from opsd_core.models.storage.adapter_folders import local_base
from tasks.context import local, produce, scratch, settings, tracker
from tasks.refs import PolicyRef
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.sources import download_folder, model_address, stored_model

PRETRAINED_FROM = "opsd.pretrained_from"
"""Tag of a version that opsd/pretrain made: digest of the weights that it started from."""


@task(name="warm-start", **STAGE)
def warm_start(config: CampaignConfig, source: PolicyRef) -> CampaignConfig:
    """`config` whose model.source is the newest pretrained champion that began as `source`; `config` itself without one.

    A later champion, from opsd/iterate, changes nothing: the same trigger stays the same campaign. One that was rolled
    back is not used.
    """
    registry, name = tracker(), config.name
    if not config.model.warm_start or registry.version_by_alias(name, "champion") is None:
        return config
    standing: dict[int, None] = {}
    for move in registry.moves(name):
        if move.action == "rollback":
            standing.pop(move.before, None)
        standing[move.after] = None
    found = [v for v in registry.versions(name) if v.version in standing and v.tags.get(PRETRAINED_FROM) == source.digest]
    if not found:
        return config
    version = found[-1]
    get_run_logger().info(
        "starting from version %d of %s, which opsd/pretrain promoted (model.warm_start=true)", version.version, name
    )
    return config.model_copy(update={"model": config.model.model_copy(update={"source": version.tags["opsd.model_uri"]})})


def stored_weights(config: CampaignConfig, field: str = "model.source") -> PolicyRef:
    """The weights that model.source names, as a folder in the store, accepted. ModelError when they cannot be used.

    `field` is the setting to name when there are none at that address.
    """
    source = model_address(config.model.source, field)
    if artifact := stored_model(source, field):
        return accepted(PolicyRef(uri=artifact.uri, digest=artifact.digest), config.model)
    identity = {"source": source, "model": _identity(config.model), "content": source_content(source)}
    artifact, _ = produce("models", identity, lambda folder: _materialise(source, config, folder))
    return accepted(PolicyRef(uri=artifact.uri, digest=artifact.digest), config.model)


def accepted(policy: PolicyRef, model: ModelConfig) -> PolicyRef:
    """The policy with the paths that its architecture can be sampled and scored on. ModelError when it differs from itself.

    A model is tested once for each dtype and version of the libraries that compute it.
    """
    libraries = {name: metadata.version(name) for name in ("torch", "transformers")}
    identity = {"model": policy.digest, "dtype": str(resolve_dtype(model)), "libraries": libraries}

    def write(folder: Path) -> dict[str, Any]:
        record = accept(load_policy(local(policy), model))
        (folder / "acceptance.json").write_text(json.dumps(record.to_json(), sort_keys=True))
        return {"switched_off": list(record.switched_off)}

    artifact, _ = produce("acceptances", identity, write)
    for sentence in artifact.summary["switched_off"]:
        get_run_logger().warning(sentence)
    return policy.model_copy(update={"acceptance": (local(artifact.uri) / "acceptance.json").read_text()})


def _identity(model: ModelConfig) -> dict[str, Any]:
    given = {"chat_template": model.chat_template} if model.chat_template else {}  # is written into the stored tokenizer
    return {"revision": model.revision, "trust_remote_code": model.trust_remote_code} | given


def source_content(source: str) -> dict[str, str]:
    """Digest of every local file that a source names; empty for what its name alone decides."""
    path = Path(tiny.__file__ if source in tiny.SIZES else source)  # a tiny model is what its code makes of it
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file()) if path.is_dir() else []
    contents = {file.name: file_digest(file) for file in files}
    base = local_base(path)  # of an adapter folder
    return contents | ({f"base/{name}": value for name, value in source_content(base).items()} if base else {})


def _materialise(source: str, config: CampaignConfig, folder: Path) -> dict[str, Any]:
    if source in tiny.SIZES:
        tiny.build_tiny(folder, seed=0, settings=tiny.SIZES[source])
    elif source == "smollm2":
        save_policy(load_gguf(smollm2_gguf(settings().cache / "downloads")), folder)
    elif source.endswith(".gguf"):
        save_policy(load_gguf(Path(source)), folder)
    elif source.startswith("s3://"):
        with scratch() as copy:
            download_folder(source, copy)
            save_policy(load_policy(copy, config.model, dtype=None), folder)
    else:
        save_policy(load_policy(source, config.model), folder)
    tracker().write_mlmodel(folder)
    commit = hub_commit(config.model)
    return {"source": source} | ({"commit": commit} if commit else {})
