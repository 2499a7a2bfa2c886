"""Settings as people write them: files of YAML, TOML or JSON, and `key=value` with values by the rules of YAML 1.2."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from opsd_core.config.recipes import inside
from opsd_core.errors import ConfigError

SUFFIXES = (".yaml", ".yml", ".toml", ".json")
_MAX_BYTES, _MAX_NODES = 1_000_000, 20_000
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types: `1e-4` is a number, `on`, `yes` and `1:30` are text. A key twice in one object is refused."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the class attribute of the library

    def compose_document(self) -> yaml.Node | None:
        root = super().compose_document()
        if root is not None:
            self._count(root, {}, ())
        return root

    def _count(self, node: yaml.Node, sizes: dict[int, int], above: tuple[int, ...]) -> int:
        """Values below a node, those behind aliases as often as they are named."""
        if id(node) in above:
            raise yaml.YAMLError("an alias names the object that it stands in")
        if id(node) not in sizes:
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
            sizes[id(node)] = 1 + sum(self._count(part, sizes, (*above, id(node))) for part in parts)
        if sizes[id(node)] > _MAX_NODES:
            raise yaml.YAMLError(f"more than {_MAX_NODES} values")
        return sizes[id(node)]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=True)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def read_file(path: Path) -> dict[str, Any]:
    """The object in a settings file. ConfigError with the line where it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES:,} bytes: is it a settings file?")
        text = raw.decode("utf-8-sig")
        found = tomllib.loads(text) if path.suffix == ".toml" else _yaml(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        kind = path.suffix.removeprefix(".").upper()
        raise ConfigError(f"{path} is not valid {kind}: {_reason(error)}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds {type(found).__name__}, not settings by name. Write for instance `iterations: 2`.")
    return found


def assignments(given: Sequence[str]) -> dict[str, Any]:
    """`key=value` arguments, dotted keys as nested objects; a later one wins. ConfigError for anything else."""
    tree: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not _KEY.fullmatch(key):
            raise ConfigError(f"{text!r:.200} is not key=value. Write a setting's path and its value: rollout.temperature=0.8")
        section, leaf = inside(tree, key)
        section[leaf] = parse(value, key)
    return tree


def parse(text: str, key: str) -> Any:
    """A value by the rules of YAML; text stays as it is, also `a: b`, `x # y` and templates. ConfigError where it is neither."""
    if text.lstrip().startswith(("{{", "{%")):
        return text
    try:
        value = _yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if text.lstrip()[:1] not in ("[", "{", "'", '"'):
            return text
        raise ConfigError(f"{key}={text!r:.120} is not valid YAML: {_reason(error)}. Quote it if it is text.") from error
    wrapped = text.lstrip()[:1] in ("[", "{", "'", '"')
    return value if wrapped or not isinstance(value, str | dict | list) else text


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return where + (getattr(error, "problem", None) or str(error).splitlines()[0])
