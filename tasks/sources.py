"""Models and data that lie elsewhere: each is found, or refused by the setting that names it, at once."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opsd_core.config import CampaignConfig, DataConfig
from opsd_core.config.teacher import MOVING
from opsd_core.errors import ConfigError, DataError, IntegrityError, ModelError, RefusedError
from opsd_core.graders import grader_identity
from opsd_core.rollout.environments import environment_identity
from tasks.context import settings, store, tracker
from tasks.storage.artifacts import Artifact, describe
from tasks.storage.base import ObjectInfo, Store
from tasks.storage.s3 import open_store
from tasks.storage.s3_errors import lacking

_FOREIGN = ("mlflow-artifacts:", "runs:", "dbfs:", "models:")


def model_sources(config: CampaignConfig) -> list[tuple[str, str]]:
    """(setting, address) of every model that is used: the policy's, and those that teach or are shown."""
    return [("model.source", config.model.source), *config.teacher.named_sources.items()]


def data_sources(config: CampaignConfig) -> list[tuple[str, DataConfig]]:
    """(setting, section) of every data set that is read."""
    others = config.rehearsal.data if config.rehearsal.share else ()
    named_others = [(f"rehearsal.data[{i}].source", section) for i, section in enumerate(others)]
    return [("data.source", config.data), *named_others]


def guard_sources(config: CampaignConfig) -> list[tuple[str, DataConfig]]:
    """(setting, section) of the data of every guard."""
    return [(f"{guard.field}.data.source", guard.data) for guard in config.promotion.guards]


def functions(config: CampaignConfig) -> dict[str, str]:
    """{setting: what it is} of the user's functions; ConfigError by the setting for one that cannot be imported."""
    graded = [("data.source", config.data), *guard_sources(config)]
    places = [(field.replace("source", "grader_function"), data) for field, data in graded if data.grader == "python"]
    found = {field: grader_identity(data) for field, data in places}
    if config.rollout.environment == "python":
        found["rollout.environment_function"] = environment_identity(config.rollout)["environment"]["function"]
    return found


def functions_identity(config: CampaignConfig) -> dict[str, dict[str, str]]:
    """Their part of an identity; nothing where there are none."""
    return {"functions": found} if (found := functions(config)) else {}


@contextmanager
def named(field: str) -> Iterator[None]:
    """Errors about data.* or model.source as errors about the setting `field` and its neighbours."""
    try:
        yield
    except DataError as error:
        section = field.removesuffix("source")
        raise type(error)(re.sub(r"(?<![\w.\]])data\.(?=[a-z])", lambda _: section, str(error))) from error
    except ModelError as error:
        raise type(error)(re.sub(r"(?<![\w.])model\.source\b", lambda _: field, str(error))) from error


def model_address(source: str, field: str) -> str:
    """Where the weights of `source` lie: the folder behind a registered version, anything else as it is.

    Raises ConfigError when there is no such version, ModelError when it was not registered by opsd.
    """
    source = f"models:/{source.removeprefix(MOVING)}" if source.startswith(MOVING) else source
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


def model_objects(uri: str, field: str = "model.source") -> list[ObjectInfo]:
    """Every object directly below an s3:// folder. ModelError when there are none, or the bucket cannot be read."""
    remote, prefix = _remote(uri, field)
    prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
    with _readable(uri, field, ModelError):
        objects = [info for info in remote.list(prefix) if info.key.count("/") == prefix.count("/")]
    if not objects:
        raise ModelError(
            f"{field}={uri!r} holds no objects. Give the folder with config.json and model.safetensors: s3://bucket/folder."
        )
    return objects


def download_folder(uri: str, folder: Path, field: str = "model.source") -> None:
    """Every object directly below an s3:// folder, as files of `folder`. ModelError as `model_objects`."""
    objects = model_objects(uri, field)
    for info in objects:
        with _readable(uri, field, ModelError):
            _remote(uri, field)[0].download(info.key, folder / info.key.rpartition("/")[2])


def object_info(uri: str, field: str = "data.source") -> ObjectInfo:
    """Length and ETag of one object of any bucket. DataError when there is no such object, or it may not be read."""
    wrong = f"{field}={uri} does not exist. Write s3://bucket/folder/file.jsonl, the address of one object."
    try:
        remote, key = _remote(uri, field)
        with _readable(uri, field, DataError):
            found = remote.head(key) if key.rpartition("/")[2] else None
        if found is None:
            raise DataError(wrong)
    except ConfigError as error:
        raise DataError(wrong) from error
    return found


def download_file(uri: str, folder: Path, field: str = "data.source") -> Path:
    """One object of any bucket as a file in `folder`. DataError as `object_info`."""
    key = object_info(uri, field).key
    path = folder / key.rpartition("/")[2]
    try:
        with _readable(uri, field, DataError):
            _remote(uri, field)[0].download(key, path)
    except IntegrityError as error:  # deleted since it was found
        raise DataError(f"{field}={uri} does not exist any more. Correct {field}.") from error
    return path


@contextmanager
def _readable(uri: str, field: str, kind: type[DataError | ModelError]) -> Iterator[None]:
    """What a store refuses as a `kind` that names the setting; an outage stays as it is, asking again may help."""
    try:
        yield
    except RefusedError as error:
        why = f"there is no bucket {uri.removeprefix('s3://').partition('/')[0]!r}"
        if (right := lacking(error)) is not None:
            why = f"the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) may not {right} there"
            why += ", or it does not exist and they may not list either" if right.startswith("read") else ""
        raise kind(f"{field}={uri} cannot be read: {why}. Correct {field}, or give the key that right.") from error


def _remote(uri: str, field: str) -> tuple[Store, str]:
    """The bucket of an s3:// address, and the rest of it. ConfigError naming `field` when it is none."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        return open_store(f"s3://{bucket}", settings()), key
    except ConfigError as error:
        raise ConfigError(f"{field}={uri} is no s3:// address. Write s3://bucket/folder.") from error
