"""The state of what lies elsewhere: what a model's or a data set's address held when it was used, as part of identities.

    local file or folder   sha256 of every file
    s3://                  ETag and length of every object
    https://               ETag, last change and length; sha256 of the file where its server says neither of the first two
    hub                    nothing: the revision is a setting, and the first fetch stays
    generated, built in    nothing: its settings say it all; a tiny model is what its code makes of it

What changed in place is another source: everything made of it is made again.
"""

import json
from pathlib import Path
from typing import Any

from transformers.utils.hub import CHAT_TEMPLATE_DIR

from opsd_core.config import CampaignConfig, DataConfig
from opsd_core.config.kinds.places import is_path, missing
from opsd_core.config.kinds.sources import SOURCE_KINDS
from opsd_core.config.sources import BUILT_IN_MODELS
from opsd_core.data import source_content, web_content
from opsd_core.data.files import source_files
from opsd_core.digest import digest, file_digest
from opsd_core.errors import DataError, ModelError
from opsd_core.models import tiny
from opsd_core.models.storage.adapter_folders import local_base
from opsd_core.prompts.limits import check_context
from opsd_core.records.apart import REST
from tasks.context import scratch, store
from tasks.sources import (
    data_sources,
    download_file,
    functions,
    guard_sources,
    model_address,
    model_objects,
    model_sources,
    named,
    object_info,
    stored_model,
)
from tasks.storage.base import ObjectInfo

State = dict[str, Any]
_MOST_BYTES = 16 << 20


def check_sources(config: CampaignConfig, *, data: bool = True) -> None:
    """Find every model and function that a campaign names, and with `data` every data set; no model is loaded, no hub is asked.

    ConfigError, ModelError or DataError by the setting whose address leads nowhere, or asks for more than the context of the
    policy.
    """
    functions(config)
    for field, source in model_sources(config):
        address = model_address(source, field)
        stored = stored_model(address, field)
        if stored is None:
            _model_is_there(address, field)
        if field == "model.source" and (positions := _declared_context(stored.uri if stored else address, field)):
            check_context(config, positions)
    for field, section in [*(data_sources(config) if data else ()), *guard_sources(config)]:
        if section.source.startswith(("s3://", "https://")):
            data_state(section, field)
        elif section.kind is SOURCE_KINDS["files"]:
            with named(field):
                _files_are_there(section)


def _model_is_there(address: str, field: str) -> None:
    if address.startswith("s3://"):
        model_objects(address, field)
    elif address not in BUILT_IN_MODELS and not Path(address).exists() and is_path(address):
        raise ModelError(missing(field, address, "a folder with config.json and model.safetensors, or a .gguf file"))


def _declared_context(address: str, field: str) -> int | None:
    """What config.json at the address says of the model's context, without its weights; None where that is not known yet."""
    found = None
    if address.startswith(store().root + "/"):
        key = store().key_of(address)
        found = store().read(f"{key}/config.json", _MOST_BYTES) or store().read(f"{key}/{REST}/config.json", _MOST_BYTES)
    elif address.startswith("s3://") and any(info.key.endswith("/config.json") for info in model_objects(address, field)):
        with scratch() as folder:
            found = (download_file(f"{address.rstrip('/')}/config.json", folder, field).read_bytes(), "")
    elif (path := Path(address) / "config.json").is_file():
        found = (path.read_bytes(), "")
    try:
        settings = json.loads(found[0]) if found else {}
        text = settings.get("text_config") or settings
        positions = text.get("max_position_embeddings")
    except (ValueError, AttributeError):  # said by name when the folder is loaded
        return None
    return positions if isinstance(positions, int) and positions > 0 else None


def _files_are_there(config: DataConfig) -> None:
    for path in source_files(config.source):
        if not path.is_file():
            raise DataError(missing("data.source", str(path), "an existing file, folder or glob"))


def data_state(config: DataConfig, field: str = "data.source") -> State:
    """What `config.source` holds now. DataError by `field` when it is not there or cannot be asked."""
    source = config.source
    with named(field):
        if source.startswith("s3://"):
            return _of_objects([object_info(source, field)])
        if source.startswith("https://"):
            return {source.partition("?")[0].rpartition("/")[2]: web_content(source)}
        return dict(source_content(config))


def rehearsal_sources(config: CampaignConfig) -> list[list[Any]]:
    """Settings and present state of every source of rehearsed prompts; empty where nothing is rehearsed."""
    return [[data.identity(mode="json"), data_state(data, field)] for field, data in data_sources(config)[1:]]


def unchanged_data(config: DataConfig, before: State, field: str = "data.source") -> None:
    """DataError when the source is no longer in the state `before`: what was read may be a mixture of two."""
    if data_state(config, field) != before:
        raise DataError(f"{field}={config.source} changed while it was read. Nothing of it is kept; trigger again.")


def model_state(source: str, field: str = "model.source") -> State:
    """What the address of a model holds now; `source` is no registered version. ModelError by `field` when nothing is there."""
    if not source.startswith("s3://"):
        return dict(_local(source))
    objects = model_objects(source, field)
    return _of_objects(objects) | _base_elsewhere(source, [info.key.rpartition("/")[2] for info in objects], field)


def unchanged_model(source: str, before: State, field: str = "model.source") -> None:
    """ModelError when the model is no longer in the state `before`."""
    if model_state(source, field) != before:
        raise ModelError(f"{field}={source} changed while it was read. Nothing of it is kept; trigger again.")


def in_words(state: State) -> str:
    """The state in one line: a single file's own marks, of several their number and one digest over all."""
    if not state:
        return "as its name and settings say"
    if len(state) > 1:
        return f"{len(state)} files, digest {digest(state)[:16]}"
    ((name, mark),) = state.items()
    marks = mark if isinstance(mark, dict) else {"sha256": mark}
    return f"{name} with " + ", ".join(f"{kind} {value}"[:80] for kind, value in sorted(marks.items()))


def _of_objects(objects: list[ObjectInfo]) -> State:
    return {info.key.rpartition("/")[2]: {"etag": info.etag.strip('"'), "bytes": info.size} for info in objects}


def _local(source: str) -> dict[str, str]:
    path = Path(tiny.__file__ if source in tiny.SIZES else source)
    base = local_base(path)  # of an adapter folder
    return _files(path) | ({f"base/{name}": value for name, value in _files(Path(base)).items()} if base else {})


def _files(path: Path) -> dict[str, str]:
    """sha256 of a file, or of the files in a folder that a model is read from: those directly in it, and its other templates."""
    if path.is_file():
        return {path.name: file_digest(path)}
    found = [*path.glob("*"), *path.glob(f"{CHAT_TEMPLATE_DIR}/*")]
    return {file.relative_to(path).as_posix(): file_digest(file) for file in sorted(found) if file.is_file()}


def _base_elsewhere(source: str, names: list[str], field: str) -> State:
    """The files of the base on this machine that an adapter folder in an object store was trained on."""
    if "adapter_config.json" not in names or "config.json" in names:
        return {}
    with scratch() as folder:
        path = download_file(f"{source.rstrip('/')}/adapter_config.json", folder, field)
        try:
            base = json.loads(path.read_text()).get("base_model_name_or_path")
        except (ValueError, AttributeError):  # said by name when the folder is loaded
            return {}
    here = isinstance(base, str) and Path(base).is_dir()
    return {f"base/{name}": value for name, value in _files(Path(base)).items()} if here else {}
