"""Paths and environment variables in settings: `${NAME}`, `~`, and paths relative to the file or folder they are written in."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opsd_core.config.kinds.places import is_path, names_file
from opsd_core.config.sources import BUILT_IN_MODELS
from opsd_core.data.globs import is_pattern, matching
from opsd_core.errors import ConfigError, DataError
from tasks.runtime.secrets import names_secret

_VARIABLE = re.compile(r"\$(\$?)\{([A-Za-z_]\w*)\}")
_SCHEME = re.compile(r"[A-Za-z][\w+-]+:")
_EXPLICIT = ("/", "./", "../", "~")
_FILES = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|gguf|jinja2?|j2|py)(\.gz|\.zst)?$")
_FUNCTIONS = ("grader_function", "environment_function")
_TEMPLATES = ("{{", "{%", "\n")


def placed(values: dict[str, Any], folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """`values` with variables filled in, and local paths absolute: those written relative are looked for in `folder`.

    ConfigError naming the setting for a variable that is not set, and for a path that does not exist.
    """

    def place(path: str, value: str) -> str:
        value = _filled(path, value, environ)
        if path.endswith(_FUNCTIONS) and ".py:" in value:
            file, _, name = value.rpartition(":")
            return f"{_located(path, file, folder, environ)}:{name}"
        return _located(path, value, folder, environ) if _names_a_place(path, value) else value

    return _each_text(values, "", place)


def _each_text(value: Any, path: str, change: Callable[[str, str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _each_text(inner, f"{path}.{key}" if path else str(key), change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_each_text(inner, path, change) for inner in value]
    return change(path, value) if isinstance(value, str) else value


def _filled(path: str, text: str, environ: Mapping[str, str]) -> str:
    """`${NAME}` replaced, `$${NAME}` kept as `${NAME}`; templates stay as they are."""
    if any(mark in text for mark in _TEMPLATES):
        return text

    def value(match: re.Match[str]) -> str:
        name = match[2]
        if match[1]:
            return match[0][1:]
        if names_secret(name):
            raise ConfigError(f"{path}={text!r:.120} would put the secret {name} into the campaign's record. Leave it out.")
        if name not in environ:
            raise ConfigError(
                f"{path}={text!r:.120} names the environment variable {name}, which is not set. Set it: export {name}=..."
            )
        return environ[name]

    return _VARIABLE.sub(value, text)


def _names_a_place(path: str, value: str) -> bool:
    if any(mark in value for mark in _TEMPLATES) or "\0" in value or not value:
        return False
    return path.rpartition(".")[2] == "source" or path in ("teacher.peers", "model.chat_template") or names_file(value)


def _located(path: str, value: str, folder: Path, environ: Mapping[str, str]) -> str:
    if _SCHEME.match(value) or value in BUILT_IN_MODELS:
        return value
    try:
        absolute = Path(os.path.normpath(folder / Path(value).expanduser()))
        there = absolute.exists() or (is_pattern(value) and any(True for _ in matching(str(absolute), field=path)))
    except DataError as error:
        raise ConfigError(str(error)) from error
    except (RuntimeError, OSError, ValueError) as error:  # ~ of nobody, a name that is too long
        raise ConfigError(f"{path}={value!r:.200} is no path: {error}. Correct {path}.") from error
    if there:
        return str(absolute)
    if value.startswith(_EXPLICIT) and Path(value).expanduser().is_absolute() and not worker_is_here(environ):
        return str(absolute)  # it may exist where the worker is
    address = path.rpartition(".")[2] == "source" or path == "teacher.peers"
    if value.startswith(_EXPLICIT) or _FILES.search(value) or (address and is_path(value, folder)):
        raise ConfigError(
            f"{path}={value!r:.200}: there is no {absolute}. Local paths are absolute or relative to {folder}. Correct {path}."
        )
    return value


def worker_is_here(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether Prefect's server is this machine, so that its worker sees the same files."""
    host = urlsplit(environ.get("PREFECT_API_URL", "")).hostname
    return host in (None, "127.0.0.1", "localhost", "::1")
