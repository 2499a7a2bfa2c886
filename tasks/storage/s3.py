"""The one door to stored objects: `open_store("s3://bucket/prefix")` or `open_store("file:///folder")`."""

from urllib.parse import urlsplit
from urllib.request import url2pathname

from opsd_core.errors import ConfigError
from tasks.runtime.folders import named_folder
from tasks.runtime.settings import Settings, load_settings
from tasks.storage.base import Store, check_key
from tasks.storage.files import FileStore


def open_store(root: str | None = None, settings: Settings | None = None) -> Store:
    """The store at `root` (default: OPSD_STORE), without touching the network.

    Raises ConfigError when `root` is neither `s3://bucket[/prefix]` nor `file:///absolute/folder`.
    """
    settings = load_settings() if settings is None else settings
    root = (root or settings.store).rstrip("/")
    try:
        parts = urlsplit(root)
    except ValueError as error:
        raise ConfigError(f"OPSD_STORE is {root!r:.200}, which is no address: {error}.") from error
    if parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment:
        from tasks.storage.bucket import S3Store  # loads boto3, which a store in a folder does not need

        prefix = parts.path.strip("/")
        return S3Store(root, parts.netloc, check_key(prefix) + "/" if prefix else "", settings)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return FileStore(root, named_folder("OPSD_STORE", url2pathname(parts.path)))
    raise ConfigError(f"OPSD_STORE is {root!r}; it must be s3://bucket, s3://bucket/prefix or file:///absolute/folder.")
