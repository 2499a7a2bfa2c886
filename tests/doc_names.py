"""What a page says of the code, compared with the code: settings, values, metrics, commands, classes, functions, variables.

`stale(page)` gives a line for every name that the code does not have. Only what stands in backticks or in a command is
looked at, except variables of the environment and classes of errors, which are looked for everywhere.
"""

import ast
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

import jsonschema
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from infra.cli.app import cli
from opsd_core.config import CampaignConfig
from opsd_core.config.moved import MOVED, present_name
from opsd_core.study import StudyConfig

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("opsd", "opsd_core", "tasks", "flows", "infra")
NOT_OURS = {"AwaitingRetry", "Late", "Pending", "Submitting", "Running", "Suspended", "Cancelling", "Completed"}
NOT_OURS |= {"InternalError", "sep=;"}
"""States of Prefect, answers of S3 servers, what programs write: right in the docs although the code does not spell them."""
GONE = {"trunc_rate"}
"""Names of the past, which only a history may tell of; settings that moved are in opsd_core.config.moved."""
NO_NAMES = {"code", "alpha", "weights_N", "context|question", "alpha / N", "mix", "a.b", "kl/mean,p50,p99"}
"""Symbols of formulas and words about words."""


def stale(text: str, history: bool = False) -> list[str]:
    """Names on a page that the code does not have. `history`: the page may tell of settings by the names they had."""
    found: list[str] = []
    for command in commands(text):
        found += _command(command)
    shown = set(
        re.findall(r"\w+", " ".join(re.findall(r"^```(?!bash|sh).*?^```", text, flags=re.DOTALL | re.MULTILINE)))
    )
    for span in spans(text):
        if span in shown or re.search(r"\.(jsonl|ndjson|csv|tsv)$", span):  # defined on the page itself; a user's file
            continue
        if span not in NO_NAMES | NOT_OURS and not (history and span in GONE):
            found += _span(span, history)
    for name in re.findall(r"\b(?:OPSD|PREFECT|MLFLOW|AWS)_[A-Z0-9_]*[A-Z0-9]\b", text):
        found += [] if _is_written(name) else [f"{name} is read nowhere"]
    for name in re.findall(r"\b[A-Z]\w+Error\b", text):
        found += [] if _is_word(name) else [f"{name} is no class"]
    return list(dict.fromkeys(found))


def spans(text: str) -> list[str]:
    """What stands between single backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def commands(text: str) -> Iterator[list[str]]:
    """Shell commands of blocks, of indented lines and of single lines, as words."""
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE) + spans(text)
    for block in blocks:
        pending = ""
        for line in block.splitlines():
            pending += line.removesuffix("\\") + "\n"
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # a quotation that ends on a later line
                continue
            if not line.endswith("\\"):
                yield words
                pending = ""


@cache
def _everything() -> str:
    """The text of all code, for names that need not be Python's."""
    files = [path for folder in (*PACKAGES, "benchmarks", "examples") for path in (ROOT / folder).rglob("*")]
    files += [ROOT / name for name in ("Makefile", "prefect.yaml", "docker-compose.yml")]
    return "\n".join(
        path.read_text() for path in files if path.is_file() and path.suffix not in (".pyc", ".md", ".png")
    )


@cache
def _known() -> tuple[frozenset[str], frozenset[str]]:
    """Identifiers of the product, and its string constants; a part of a constant that is computed is a NUL."""
    words = {path.name for path in ROOT.iterdir() if path.is_dir()}
    words.update(re.findall(r'^    "(\w+):', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))  # marks of tests
    constants: set[str] = set()
    for folder in (*PACKAGES, "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            words.add(path.stem)
            for node in ast.walk(ast.parse(path.read_text())):
                words.update(
                    value for key in ("id", "attr", "name", "arg") if isinstance(value := getattr(node, key, None), str)
                )
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    constants.add(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    constants.add("".join(map(str, parts)))
    return frozenset(words), frozenset(constants)


def _is_word(name: str) -> bool:
    words, constants = _known()
    return name in words or name in constants or name in NOT_OURS or name in _settings() or name in __builtins__


@cache
def _settings() -> dict[str, FieldInfo | None]:
    """Every setting of a campaign by its path; None for a section."""
    return dict(_fields(CampaignConfig, ""))


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo | None]]:
    for name, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)]
        yield f"{prefix}{name}", None if inner else field
        for kind in inner:
            yield from _fields(kind, f"{prefix}{name}.")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _span(span: str, history: bool) -> Iterator[str]:
    key, equals, value = span.partition("=")
    if span.startswith("{") and not span.startswith("{{"):
        yield from _overrides(span)
    elif key in MOVED.keys() - {"weights"} or key.startswith("weights."):
        yield from [] if history else [f"{key} is called {present_name(key)} today"]
    elif re.fullmatch(r"[a-z_]+(\.[\w*]+)+", key) and key.split(".")[0] in _settings():
        yield from _setting(key, value if equals else None)
    elif equals and re.fullmatch(r"[a-z_0-9]+", key):
        yield from _bare_setting(key, value)
    elif called := re.match(r"([A-Za-z_][\w.]{3,})\(.", span):
        yield from _span(called[1], history)
    elif span.startswith("-p "):
        yield from _parameter(shlex.split(span)[1])
    elif re.fullmatch(r"[A-Za-z_]\w*(\(\))?", span):
        yield from [] if _is_word(span.removesuffix("()")) else [f"{span} is the name of nothing"]
    elif re.match(rf"({'|'.join(PACKAGES[1:])})\.", span):  # opsd.* are tags of versions too
        yield from [] if _imports(span) else [f"{span} cannot be imported"]
    elif re.fullmatch(r"[\w.]+\.\w+", span):
        yield from [] if _is_dotted(span) else [f"{span} is the name of nothing"]
    elif re.fullmatch(r"[\w.]+/[\w./@*<>-]*", span):
        yield from [] if _is_path_or_metric(span) else [f"{span} is no file, deployment or metric"]
    else:
        words = re.findall(
            r"\b(?:[a-z][a-z0-9]*_[a-z0-9_]+|[A-Z][a-z]+[A-Z]\w+)\b", re.sub(r'"[^"]*"|\S*/\S*|--\S+', "", span)
        )
        yield from (f"{word} (in {span}) is the name of nothing" for word in words if not _is_word(word))


def _parameter(given: str) -> Iterator[str]:
    """A parameter that no deployment has, or a value that none of them takes."""
    key, _, value = given.partition("=")
    kinds = [parameters[key].annotation for parameters in _deployments().values() if key in parameters]
    if not any(_is_valid(kind, value) for kind in kinds):
        yield f"no deployment has the parameter {key} with the value {value}"


def _setting(path: str, value: str | None) -> Iterator[str]:
    if path.removesuffix(".*") not in _settings():
        yield f"{path} is no setting"
    elif path == "curriculum.schedules" and value is not None:
        yield from _overrides(f'{{"curriculum": {{"schedules": {value}}}}}')
    elif value is not None and (field := _settings()[path]) is not None and not _is_valid(field, value):
        yield f"{path} cannot be {value}"


def _bare_setting(name: str, value: str) -> Iterator[str]:
    fields = [field for path, field in _settings().items() if field and path.split(".")[-1] == name]
    kinds: list[Any] = [field for field in (*fields, StudyConfig.model_fields.get(name)) if field]
    kinds += [parameters[name].annotation for parameters in _deployments().values() if name in parameters]
    if not kinds and not _is_word(name):
        yield f"{name} is no setting and no parameter"
    elif kinds and not any(_is_valid(kind, value) for kind in kinds):
        yield f"{name} cannot be {value}"


def _is_valid(kind: Any, value: Any) -> bool:
    """Whether a value, as text where it is text, can be a setting's. A Greek letter, capitals and dots stand for any value."""
    if isinstance(value, str) and re.fullmatch(r"[^\x00-\x7f]+|[A-Z-]+|<.*>|\.\.\.", value):
        return True
    adapter = TypeAdapter(Annotated[kind.annotation, kind] if isinstance(kind, FieldInfo) else kind)
    for candidate in (value, _parsed(value)):
        try:
            taken = adapter.dump_python(adapter.validate_python(candidate), mode="json")
            jsonschema.validate(taken, adapter.json_schema())  # what a form takes is said by its schema alone
        except (ValidationError, jsonschema.ValidationError):
            continue
        return True
    return False


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def _overrides(text: str) -> Iterator[str]:
    """Stale names of settings in JSON, nested or by path, and values that their settings cannot have."""
    try:
        pending = list(json.loads(text.replace("[...]", '"..."')).items())
    except ValueError:
        yield f"{text} is no JSON"
        return
    while pending:
        path, value = pending.pop()
        if path == "curriculum.schedules":
            pending += [(key, one) for key, values in value.items() for one in values]
        elif path not in _settings():
            yield f"{path} (in {text:.60}) is {'called ' + new + ' today' if (new := present_name(path)) else 'no setting'}"
        elif "." in path and isinstance(value, list) and path in text:  # a schedule's values
            pending += [(path, one) for one in value]
        elif (field := _settings()[path]) is None and isinstance(value, dict):
            pending += [(f"{path}.{key}", inner) for key, inner in value.items()]
        elif field is not None and value != "..." and not _is_valid(field, value):
            yield f"{path} cannot be {value}"


def _imports(dotted: str) -> bool:
    module, *rest = dotted.split("(")[0].split(".")
    found = import_module(module)
    for name in rest:
        module += f".{name}"
        if hasattr(found, name):
            found = getattr(found, name)
        elif _is_module(module):
            found = import_module(module)
        else:
            return False
    return True


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def _is_dotted(name: str) -> bool:
    """A file, a tag, a teacher as WEIGHTS.CONTEXT, or attributes of what the code names."""
    weights, _, context = name.partition(".")
    teacher = _settings()["teacher.weights"], _settings()["teacher.context"]
    both = zip(teacher, (weights, context), strict=True)
    if all(field and part in (*get_args(field.annotation), part.upper()) for field, part in both):
        return True
    return name in _known()[1] or (ROOT / name).exists() or _is_written(name) or all(map(_is_word, name.split(".")))


def _is_written(name: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}(?![\w-])", _everything()) is not None


def _is_path_or_metric(name: str) -> bool:
    if name.startswith("opsd/"):
        return name in _deployments()
    if any(list(base.glob(name.strip("/"))) for base in (ROOT, ROOT / "opsd_core")):
        return True
    if name.endswith("/"):
        return any(one.startswith(name) or one == name.rstrip("/") for one in _known()[1])
    if name.startswith("."):
        return all(part in _known()[1] for part in name.split("/"))
    if name.rpartition("/")[0] in _known()[1] and re.fullmatch(r"[A-Z]+", name.rpartition("/")[2]):
        return True
    pattern = re.sub(r"\\\*|<\w+>|[A-Z]{2,}", ".*", re.escape(name))
    return any(re.fullmatch(pattern, one) or _is_made_by(name, one) for one in _known()[1] if "/" in one)


def _is_made_by(name: str, constant: str) -> bool:
    """Whether a computed constant can be this name: every computed part has to be a word of the code, or a number."""
    found = re.fullmatch(re.escape(constant).replace("\0", "([^/]+)"), name)
    computed = not constant.strip("\0/")
    return found is not None and not computed and all(part.isdigit() or _is_word(part) for part in found.groups())


@cache
def _deployments() -> dict[str, dict[str, inspect.Parameter]]:
    """Parameters of every deployment's flow, as prefect.yaml names them."""
    found = {}
    for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        file, flow = deployment["entrypoint"].removesuffix(".py").split(".py:")
        function = getattr(import_module(file.replace("/", ".")), flow).fn
        found[f"opsd/{deployment['name']}"] = dict(inspect.signature(function).parameters)
    return found


def _command(words: list[str]) -> Iterator[str]:
    for position, word in enumerate(words[:-1]):
        following = words[position + 1]
        if word == "-m" and "python" in words[position - 1] and not _is_module(following):
            yield f"python -m {following} does not exist"
        if word.endswith("python") and following.endswith(".py") and not (ROOT / following).exists():
            yield f"{following} does not exist"
        if word == "make" and re.fullmatch(r"[a-z-]+", following) and f"\n{following}:" not in _everything():
            yield f"make {following} does not exist"
    for word in words:
        if word.startswith("RECIPE=") and "make" in words:
            yield from _deployment_run("opsd/study", ["-p", word.replace("RECIPE", "recipe")])
    if words[:1] == ["opsd"] and words[1:]:
        yield from _opsd(words[1], words[2:])
    if words[:3] == ["prefect", "deployment", "run"] and words[3:]:
        yield from _deployment_run(words[3], words[4:])


def _opsd(name: str, words: list[str]) -> Iterator[str]:
    if not re.fullmatch(r"[a-z]+", name):
        return
    if name not in cli.commands:
        yield f"opsd {name} is no command"
        return
    options = {option for parameter in cli.commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = [word for word in words if word.startswith("-")]
    yield from (f"opsd {name} has no option {word}" for word in given if word not in {*options, "--help"})
    for key, equals, value in (word.partition("=") for word in words if not word.startswith("-")):
        if equals and key in _settings():
            yield from _setting(key, value)
        elif equals and key != "key" and key not in StudyConfig.model_fields:
            yield f"{key} is no setting"


def _deployment_run(name: str, options: list[str]) -> Iterator[str]:
    if name not in _deployments():
        yield f"{name} is no deployment"
        return
    given = [value for option, value in pairwise(options) if option in ("-p", "--param")]
    for key, _, value in (parameter.partition("=") for parameter in given):
        if key not in _deployments()[name]:
            yield f"{name} has no parameter {key}"
        elif key == "overrides":
            yield from _overrides(value)
        elif not _is_valid(_deployments()[name][key].annotation, value):
            yield f"{name}: {key} cannot be {value}"
