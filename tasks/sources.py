"""Models and data that lie elsewhere: each is found, or refused by the setting that names it, at once."""

from pathlib import Path

from opsd_core.errors import ConfigError, DataError, IntegrityError, ModelError, RefusedError
from tasks.context import settings, store, tracker
from tasks.storage.artifacts import Artifact, describe
from tasks.storage.base import ObjectInfo, Store
from tasks.storage.s3 import open_store

_FOREIGN = ("mlflow-artifacts:", "runs:", "dbfs:", "models:")


def model_address(source: str, field: str) -> str:
    """Where the weights of `source` lie: the folder behind a registered version, anything else as it is.

    Raises ConfigError when there is no such version, ModelError when it was not registered by opsd.
    """
    if not source.startswith("models:"):
        return source
    found = tracker().source_of(source, field)
    if found.startswith(_FOREIGN):
        raise ModelError(
            f"{field}={source} was not registered by opsd: its weights lie at {found:.300}. Download them and give their folder."
        )
    return found


def stored_model(uri: str, field: str) -> Artifact | None:
    """The stored model at `uri`, None when it lies outside this store's models. ModelError when it is not there whole."""
    if not uri.startswith(store().uri("models") + "/"):
        return None
    try:
        return describe(store(), uri)
    except (IntegrityError, ConfigError) as error:
        raise ModelError(
            f"{field}: there is no stored model at {uri}, or it is not whole. It is mistyped, was deleted (opsd/gc keeps what "
            f"versions need), or OPSD_STORE={store().root} is another store. Correct {field}."
        ) from error


def download_folder(uri: str, folder: Path, field: str = "model.source") -> None:
    """Every object directly below an s3:// folder, as files of `folder`. ModelError when there are none."""
    remote, prefix = _remote(uri, field)
    prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
    try:
        objects: list[ObjectInfo] = [info for info in remote.list(prefix) if info.key.count("/") == prefix.count("/")]
    except RefusedError as error:
        raise ModelError(f"{field}={uri} cannot be read: there is no bucket {remote.root}. Correct {field}.") from error
    if not objects:
        raise ModelError(
            f"{field}={uri!r} holds no objects. Give the folder with config.json and model.safetensors: s3://bucket/folder."
        )
    for info in objects:
        remote.download(info.key, folder / info.key.rpartition("/")[2])


def download_file(uri: str, folder: Path, field: str = "data.source") -> Path:
    """One object of any bucket as a file in `folder`. DataError when there is no such object."""
    wrong = f"{field}={uri} does not exist. Write s3://bucket/folder/file.jsonl, the address of one object."
    try:
        remote, key = _remote(uri, field)
        name = key.rpartition("/")[2]
        if not name or remote.head(key) is None:
            raise DataError(wrong)
        path = folder / name
        remote.download(key, path)
    except (ConfigError, RefusedError, IntegrityError) as error:
        raise DataError(wrong) from error
    return path


def _remote(uri: str, field: str) -> tuple[Store, str]:
    """The bucket of an s3:// address, and the rest of it. ConfigError naming `field` when it is none."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        return open_store(f"s3://{bucket}", settings()), key
    except ConfigError as error:
        raise ConfigError(f"{field}={uri} is no s3:// address. Write s3://bucket/folder.") from error
