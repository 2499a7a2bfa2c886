"""A new grader is one file and one line in the table; nothing else names the graders that exist."""

import inspect
import json
import os
import pkgutil
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args

import opsd_core
import opsd_core.graders
from opsd_core.config import DataConfig, GraderName
from opsd_core.config.kinds.graders import GRADER_KINDS
from opsd_core.graders import GRADERS, VERSION, grader_identity

ROOT = Path(opsd_core.__file__).parent

# Step 1: opsd_core/graders/unordered.py
GRADER = '''"""`unordered`: the same comma-separated items in any order."""

from opsd_core.graders.extraction import find_answer, normalised
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    return "" if _items(example.answer) else f"answer={example.answer!r:.60} names no item"


def grade(example: Example, text: str) -> Grade:
    """The sorted items are equal."""
    answer = find_answer(text)
    if answer is None:
        return Grade(False, None, 0.0)
    correct = _items(answer.text) == _items(example.answer)
    return Grade(correct, ", ".join(_items(answer.text)), float(correct))


def _items(text: str) -> list[str]:
    return sorted(item for part in text.split(",") if (item := normalised(part)))
'''

# Step 2: one line of GRADER_KINDS in opsd_core/config/kinds/graders.py
LINE = '    "unordered": GraderKind("opsd_core.graders.unordered", "the same items in any order"),\n'

# Step 3: one test
TEST = """
import json
from opsd_core.config import DataConfig
from opsd_core.graders import check_gradable, get_grader, grader_identity, grader_name
from opsd_core.records.examples import Example

config = DataConfig(source="colours.jsonl", grader="unordered")
example = Example(id="1", question="Which colours?", answer="red, green", solution="")
judge = get_grader(grader_name(config))
check_gradable([example], "unordered")
print(json.dumps([judge(example, "The answer is green, red.").correct, judge(example, "red").correct,
                  grader_identity(config)]))
"""


def test_the_three_steps_of_the_page_add_a_grader(tmp_path):
    shutil.copytree(ROOT, tmp_path / "opsd_core", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "opsd_core/graders/unordered.py").write_text(GRADER)
    table = tmp_path / "opsd_core/config/kinds/graders.py"
    before, start, after = table.read_text().partition("GRADER_KINDS: dict[str, GraderKind] = {\n")
    table.write_text(before + start + LINE + after)
    run = subprocess.run(
        [sys.executable, "-c", TEST],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [True, False, f"unordered@{VERSION}"]


def test_the_configuration_and_the_registry_know_the_same_graders():
    assert set(get_args(GraderName)) == {"auto", *GRADER_KINDS} and GRADERS.keys() == GRADER_KINDS.keys()
    for name, kind in GRADER_KINDS.items():
        module = import_module(kind.module)
        assert GRADERS[name] is module and kind.judges
        assert list(inspect.signature(module.grade).parameters) == ["example", "text"]
        assert list(inspect.signature(module.refuses).parameters) == ["example"]


def test_every_file_with_a_grade_function_has_its_line():
    modules = [import_module(f"opsd_core.graders.{m.name}") for m in pkgutil.iter_modules(opsd_core.graders.__path__)]
    graders = {module.__name__ for module in modules if hasattr(module, "grade")}
    assert graders == {kind.module for kind in GRADER_KINDS.values()}


def test_the_identity_of_grades_names_the_grader_that_auto_means_and_the_version():
    assert grader_identity(DataConfig(source="reasoning_gym:gcd")) == f"reasoning_gym@{VERSION}"
    assert grader_identity(DataConfig(source="some/data")) == f"math@{VERSION}"
    assert grader_identity(DataConfig(source="some/data", grader="choice")) == f"choice@{VERSION}"
