"""Where the services are: the environment, read once into a typed record that hides its secrets.

    Settings    Prefect, MLflow and object-store addresses, credentials, project and cache folders
    load_settings()    environment first, then the embedded stack's `env` in OPSD_STATE (default: `.opsd` in the project folder)

Each service is taken whole: when its address variable is set, nothing of it is read from `.opsd/env`; when it is not,
address and credentials both come from there (so that credentials never travel to a server they were not made for).
"""

import os
import shlex
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from opsd_core.addresses import bare
from opsd_core.errors import ConfigError
from tasks.runtime.folders import named_folder
from tasks.runtime.secrets import redact, without_credentials

DEFAULT_STORE = "s3://opsd"

# Address variables of a service -> every variable that belongs with them.
_SERVICES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"): (
        "AWS_ENDPOINT_URL_S3",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_DEFAULT_REGION",
        "MLFLOW_S3_ENDPOINT_URL",
    ),
    ("MLFLOW_TRACKING_URI",): ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    ("PREFECT_API_URL",): ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"),
}
_GROUPED = {name for names in _SERVICES.values() for name in names}


class Settings(BaseModel):
    """Addresses, credentials and folders; secrets show as `**********` in every repr, log and dump."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    """Project folder."""
    state: Path
    """The embedded stack's folder, and that of metrics not yet sent: OPSD_STATE, else `.opsd` in the project folder."""
    cache: Path
    """Local folder for verified copies of artifacts."""
    cache_gb: float = Field(default=50.0, gt=0)
    """Size in 10^9 bytes to which every iteration prunes the cache, least recently used first (OPSD_CACHE_GB)."""
    store: str = DEFAULT_STORE
    """Root of all artifacts: `s3://bucket[/prefix]`, or `file:///folder`, which a path stands for too."""
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    s3_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds without an answer from the object store after which a request is sent again (OPSD_S3_TIMEOUT_S)."""
    mlflow_uri: str | None = None
    mlflow_username: str | None = None
    mlflow_password: SecretStr | None = None
    prefect_api_url: str | None = None
    prefect_auth: SecretStr | None = None

    def hurried(self, seconds: float) -> "Settings":
        """The same with no more than these seconds for the object store's answers."""
        return self.model_copy(update={"s3_timeout_s": min(self.s3_timeout_s, seconds)})

    def redact(self, text: str) -> str:
        """`text` with every secret of these settings and of the environment replaced by `***`."""
        own = (self.s3_access_key, self.s3_secret_key, self.mlflow_password, self.prefect_auth)
        values = [value.get_secret_value() for value in own if value is not None and value.get_secret_value()]
        return redact(redact(text, values))


def load_settings(environ: MutableMapping[str, str] | None = None) -> Settings:
    """Settings from `environ` (default: the process's), absent services filled in from `env` in the state folder.

    What the file supplies is also written into `environ`, because the Prefect, MLflow and S3 clients read it there.
    A password in an address moves to the variable made for it. Raises ConfigError when a line of the file is not
    NAME=VALUE, when a value is not a number or is out of bounds, or when the store's address holds a password.
    """
    environ = os.environ if environ is None else environ
    home = _folder("OPSD_HOME", environ) or Path.cwd().resolve()
    state = _folder("OPSD_STATE", environ) or (home / ".opsd").resolve()
    _fill(environ, read_env_file(state / "env"))
    environ.update(without_credentials(environ))
    _check_addresses(environ)

    def secret(name: str) -> SecretStr | None:
        return SecretStr(environ[name]) if environ.get(name) else None

    return Settings(
        home=home,
        state=state,
        cache=_folder("OPSD_CACHE", environ) or state / "cache",
        cache_gb=_number("OPSD_CACHE_GB", environ.get("OPSD_CACHE_GB") or "50", 1e6),
        store=store_root(environ.get("OPSD_STORE") or DEFAULT_STORE),
        s3_endpoint=environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or None,
        s3_region=environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION") or "us-east-1",
        s3_access_key=secret("AWS_ACCESS_KEY_ID"),
        s3_secret_key=secret("AWS_SECRET_ACCESS_KEY"),
        s3_timeout_s=_number("OPSD_S3_TIMEOUT_S", environ.get("OPSD_S3_TIMEOUT_S") or "60", 3600),
        mlflow_uri=environ.get("MLFLOW_TRACKING_URI") or None,
        mlflow_username=environ.get("MLFLOW_TRACKING_USERNAME") or None,
        mlflow_password=secret("MLFLOW_TRACKING_PASSWORD"),
        prefect_api_url=environ.get("PREFECT_API_URL") or None,
        prefect_auth=secret("PREFECT_API_AUTH_STRING"),
    )


def store_root(text: str) -> str:
    """A path of this machine as file:///absolute/folder; any other address as it is. ConfigError as `named_folder`."""
    return named_folder("OPSD_STORE", text).as_uri() if text.startswith(("/", "./", "../", "~")) else text


def _check_addresses(environ: Mapping[str, str]) -> None:
    """ConfigError for an address that no client can take apart, before one of them stumbles over it."""
    for variable in (name for names in _SERVICES for name in names):
        text = environ.get(variable, "")
        try:
            whole = not text or _is_whole(text, variable)
        except ValueError:
            whole = False
        if not whole:
            raise ConfigError(
                f"{variable}={bare(text)!r:.200} is no address. Write http://host:port, for Prefect http://host:port/api, or "
                "unset it."
            )


def _is_whole(text: str, variable: str) -> bool:
    """ValueError as `urlsplit` has it."""
    parts = urlsplit(text)
    if not text.isprintable() or text != text.strip() or parts.port == 0:
        return False
    if parts.scheme.startswith("http"):
        return bool(parts.hostname)
    return bool(parts.scheme) or variable == "MLFLOW_TRACKING_URI"  # MLflow knows names without one, such as databricks


def _folder(variable: str, environ: Mapping[str, str]) -> Path | None:
    return named_folder(variable, environ[variable]) if environ.get(variable) else None


def _number(name: str, text: str, limit: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= limit:
        raise ConfigError(f"{name}={text!r} must be a number above 0, at most {limit:g}.")
    return number


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=VALUE lines of a shell-style file (`export`, quotes and # comments allowed); {} when it does not exist."""
    if not path.is_file():
        return {}
    variables: dict[str, str] = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text ({type(error).__name__}): repair or delete it.") from error
    for number, line in enumerate(lines, start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = ["?"]
        if words[:1] == ["export"]:
            words = words[1:]
        if not words:
            continue
        name, sign, value = words[0].partition("=")
        if len(words) != 1 or not sign or not name.isidentifier() or "\0" in value:
            raise ConfigError(f"{path}:{number}: the line is not NAME=VALUE (values with spaces need quotes).")
        variables[name] = value
    return variables


def public_url(url: str) -> str:
    """`url` without user name, password, query and fragment: fit for messages and logs."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _fill(environ: MutableMapping[str, str], file: dict[str, str]) -> None:
    for addresses, names in _SERVICES.items():
        if any(environ.get(address) for address in addresses) or not any(file.get(address) for address in addresses):
            continue
        for name in names:
            environ.pop(name, None)
            if name in file:
                environ[name] = file[name]
    for name, value in file.items():
        if name not in _GROUPED:
            environ.setdefault(name, value)
