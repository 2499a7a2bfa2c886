"""Where a campaign starts: weights in the store, tested against themselves, those that opsd/pretrain promoted first."""

import json
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.acceptance import accept
from opsd_core.config import CampaignConfig, LoraConfig, ModelConfig
from opsd_core.config.sources import BUILT_IN_MODELS
from opsd_core.models import tiny
from opsd_core.models.policy import (
    hub_commit,
    load_gguf,
    load_policy,
    resolve_device,
    resolve_dtype,
    save_policy,
)
from opsd_core.models.storage.skeleton import check_targets, stored_config
from opsd_core.models.storage.smollm2 import smollm2_gguf
from opsd_core.models.types import context_length
from tasks.context import local, produce, scratch, settings, tracker
from tasks.refs import PolicyRef
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.sources import download_folder, model_address, named, stored_model
from tasks.states import State, in_words, model_state, unchanged_model
from tasks.storage.artifacts import Artifact

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


def stored_weights(config: CampaignConfig, field: str = "model.source", lora: LoraConfig | None = None) -> PolicyRef:
    """The weights that model.source names, as a folder in the store, accepted. ModelError when they cannot be used.

    `field` is the setting to name when there are none at that address; `lora` the adapters that will be trained on them.
    """
    source = model_address(config.model.source, field)
    artifact = stored_model(source, field)
    if artifact is None:
        with named(field):
            identity = model_identity(source, config.model, field)
            artifact, _ = produce("models", identity, partial(_materialise, source, config, field, identity["content"]))
    get_run_logger().info("%s=%s: %s", field, config.model.source, state_of_model(artifact))
    return accepted(PolicyRef(uri=artifact.uri, digest=artifact.digest), config.model, lora)


def accepted(policy: PolicyRef, model: ModelConfig, lora: LoraConfig | None = None) -> PolicyRef:
    """The policy with the paths that its architecture can be sampled and scored on. ModelError when it differs from itself.

    A model is tested once for each dtype, kind of adapters and version of the libraries that compute it. `lora`: what is trained
    on it; teachers and champions get no adapters.
    """
    lora = lora if lora and lora.rank else None
    identity = acceptance_identity(policy, model, lora)

    def write(folder: Path) -> dict[str, Any]:
        if lora:
            check_targets(local(policy), model)  # before any weights are read
        with scratch() as copies:
            record = accept(load_policy(local(policy), model), lora, copies)
        (folder / "acceptance.json").write_text(json.dumps(record.to_json(), sort_keys=True))
        return {"switched_off": list(record.switched_off)}

    artifact, _ = produce("acceptances", identity, write)
    for sentence in artifact.summary["switched_off"]:
        get_run_logger().warning(sentence)
    return policy.model_copy(update={"acceptance": (local(artifact.uri) / "acceptance.json").read_text()})


def model_identity(source: str, model: ModelConfig, field: str = "model.source") -> dict[str, Any]:
    """What decides the stored folder of a model: its address, what lies there now, and the settings it is stored with."""
    settings_of_it: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    if model.chat_template:  # is written into the stored tokenizer
        settings_of_it["chat_template"] = model.chat_template
    if not _in_float32(source) and (stored_in := engine_dtype(model)) != "float32":  # weights are stored as they are loaded
        settings_of_it["dtype"] = stored_in
    return {"source": source, "model": settings_of_it, "content": model_state(source, field)}


def acceptance_identity(policy: PolicyRef, model: ModelConfig, lora: LoraConfig | None = None) -> dict[str, Any]:
    """What decides on which paths an architecture can be computed: weights, dtype, adapters, device and libraries."""
    libraries = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    identity = {"model": policy.digest, "dtype": str(resolve_dtype(model)), "libraries": libraries}
    if lora:
        identity["lora"] = lora.model_dump()
    device = resolve_device(model).type
    return identity if device == "cpu" else identity | {"device": device}


def state_of_model(artifact: Artifact) -> str:
    """Where stored weights came from and in which state that was, in words."""
    identity = artifact.identity
    if "content" not in identity:
        return f"stored weights {artifact.digest[:16]}"
    commit = artifact.summary.get("commit")
    return f"{in_words(identity['content'])}{f', commit {commit}' if commit else ''}; stored weights {artifact.digest[:16]}"


def stored_context(policy: PolicyRef, model: ModelConfig) -> int:
    """Tokens that a stored model can attend to, read from its config.json."""
    return context_length(stored_config(local(policy), model))


def engine_dtype(model: ModelConfig) -> str:
    """ "float32" or "bfloat16": what model.dtype stands for on this hardware."""
    return str(resolve_dtype(model)).removeprefix("torch.")


def _in_float32(source: str) -> bool:
    """Whether a source is stored in float32 whatever model.dtype says."""
    return source in BUILT_IN_MODELS or source.endswith(".gguf")


def _materialise(source: str, config: CampaignConfig, field: str, state: State, folder: Path) -> dict[str, Any]:
    if source in tiny.SIZES:
        tiny.build_tiny(folder, seed=0, settings=tiny.SIZES[source])
    elif source == "smollm2":
        save_policy(load_gguf(smollm2_gguf(settings().cache / "downloads")), folder)
    elif source.endswith(".gguf"):
        save_policy(load_gguf(Path(source)), folder)
    elif source.startswith("s3://"):
        with scratch() as copy:
            download_folder(source, copy, field)
            save_policy(load_policy(copy, config.model, dtype=None), folder)
    else:
        save_policy(load_policy(source, config.model), folder)
    unchanged_model(source, state, field)
    tracker().write_mlmodel(folder)
    commit = hub_commit(config.model)
    return {"source": source} | ({"commit": commit} if commit else {})
