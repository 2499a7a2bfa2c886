"""pytest tests/test_architecture.py — lengths of files, functions and folders, import contracts, what the core drags in."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for folder in ("opsd", "flows", "tasks", "opsd_core", "infra") for path in (ROOT / folder).rglob("*.py"))
_LIMIT = 300
_FUNCTION_LIMIT = 60
_FOLDER_LIMIT = 20


def long_functions(source):
    """(name, lines) of every function that is longer than the limit, methods and functions in functions included."""
    functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    lengths = [(f.name, f.end_lineno - f.lineno + 1) for f in functions]
    return sorted((name, length) for name, length in lengths if length > _FUNCTION_LIMIT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= _LIMIT, f"{len(lines)} lines; one file holds one concept"
    assert not lines or lines[0].lstrip("r").startswith('"""'), "no module docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path):
    assert not long_functions(path.read_text()), f"at most {_FUNCTION_LIMIT} lines each"


_MANY = {
    "a form: one parameter per field": {"iterate", "pretrain", "study", "promote", "replay", "schedule"},
    "a formula: one parameter per symbol": {
        "dense_strip", "bucketed_strip", "likelihood_strip", "fused_loss", "initial_divergence",
    },
    "a kernel: one parameter per pointer, stride and constant": {"_dense_values", "_dense_gradients", "_tail_gradients"},
    "what a loop joins: both sides, the data, the settings, and callbacks by keyword": {
        "distil", "train_step", "_gradients", "training_items", "score_targets", "_decode", "publish", "decide",
        "simulated_campaigns",
    },
}  # fmt: skip
"""Functions of more than six parameters, by their reason."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_parameters_are_few_and_every_one_has_a_type(path):
    excused = set().union(*_MANY.values())
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = function.args
            named = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs]
            named = [parameter for parameter in named if parameter.arg not in ("self", "cls")]
            assert len(named) <= 6 or function.name in excused, f"{function.name} has {len(named)} parameters"
            others = [parameter for parameter in (taken.vararg, taken.kwarg) if parameter]
            assert all(parameter.annotation for parameter in named + others), f"{function.name}: a parameter has no type"


def test_the_rule_on_functions_sees_methods_coroutines_and_inner_ones():
    body = "\n".join(["        pass"] * 59)
    assert long_functions(f"class A:\n    def fits(self):\n{body}\n") == []
    assert long_functions(f"class A:\n    async def long(self):\n{body}\n        pass\n") == [("long", 61)]
    assert long_functions(f"def f():\n    def f():\n{body}\n        pass\n") == [("f", 61), ("f", 62)]


@pytest.mark.parametrize("top", ["opsd", "flows", "tasks", "opsd_core", "infra", "benchmarks", "docs", "tests"])
def test_folders_are_small(top):
    files = [path.relative_to(ROOT) for path in (ROOT / top).rglob("*") if path.is_file()]
    shown = [path for path in files if not any(part.startswith((".", "__pycache__")) for part in path.parts)]
    sizes = Counter(str(path.parent) for path in shown)
    assert not {folder: size for folder, size in sizes.items() if size > _FOLDER_LIMIT}


def test_stages_stream_what_is_stored_of_completions():
    """A list of an iteration's rollouts or targets as objects takes a hundred kilobytes for each of them."""
    whole = ("read_rollouts", "read_targets", "read_grades", "read_examples")
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
    read = {(path, name) for path, text in texts.items() for name in whole if re.search(rf"\b{name}\(", text)}
    held_out = {(f"tasks/{name}.py", "read_examples") for name in ("study/report", "study/labels", "guards/items")}
    one_shard = {("tasks/stages/rollout.py", "read_examples")}
    assert {found for found in read if not found[0].startswith("opsd_core/records/")} <= held_out | one_shard


def test_import_contracts_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_core_loads_where_no_orchestrator_tracker_or_object_store_is_installed():
    """In a fresh process in which importing one of them fails, third parties' imports included."""
    code = (
        "import importlib, pkgutil, sys, warnings\nwarnings.simplefilter('ignore')\n"
        "sys.modules.update(dict.fromkeys(('prefect', 'mlflow', 'boto3', 'botocore')))\nimport opsd_core\n"
        "for m in pkgutil.walk_packages(opsd_core.__path__, 'opsd_core.'): importlib.import_module(m.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_package_that_is_imported_is_a_dependency():
    """Of its own, not one that some other package happens to bring along; a package's own lower layer comes with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonical(re.split(r"[\[<>=]", line)[0]) for line in project["dependencies"]}
    declared |= {"botocore", "pydantic-core", "sympy", "urllib3"}  # of boto3, pydantic, math-verify; of botocore and requests
    providers, own = packages_distributions(), {"opsd", "flows", "tasks", "opsd_core", "infra"}
    for path in FILES:
        for name in top_level_imports(path.read_text()) - sys.stdlib_module_names - own:
            assert declared & {canonical(found) for found in providers[name]}, f"{path} imports {name}"


def canonical(name):
    return name.lower().replace("_", "-")


def top_level_imports(source):
    nodes = list(ast.walk(ast.parse(source)))
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path):
    unsafe = re.compile(
        r"import (pickle|joblib|cloudpickle|dill)|torch\.load\(|safetensors=False|trust_remote_code=True"
    )
    found = [
        line
        for line in path.read_text().splitlines()
        if unsafe.search(line) and not line.lstrip().startswith(("#", '"'))
    ]
    assert not found
