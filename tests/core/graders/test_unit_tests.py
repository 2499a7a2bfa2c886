"""pytest tests/core/graders/test_unit_tests.py — programs run against tests, and what they may not do."""

import sys

import pytest

from opsd_core.config import resolve
from opsd_core.errors import DataError
from opsd_core.graders import check_gradable, get_grader
from opsd_core.graders.unit_tests import program_of, refuses
from opsd_core.models.tiny import tiny_tokenizer
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.teacher import teacher_prompts
from opsd_core.records.examples import Example
from tests.core.small import rollout_of

TESTS = "from math import isclose\nassert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert isclose(add(.5, .25), .75)"


def example(tests=TESTS):
    return Example(id="1", question="Write add(a, b).", answer=tests, solution="")


def graded(program, tests=TESTS):
    return get_grader("unit_tests")(example(tests), f"Here it is:\n```python\n{program}\n```\n")


def test_a_program_that_passes_every_test_is_right():
    grade = graded("def add(a, b):\n    print('noise')\n    return a + b")
    assert (grade.correct, grade.score, grade.note) == (True, 1.0, "")
    assert grade.extracted == "(3 of 3 tests passed)"


def test_a_program_is_run_once_whoever_asks():
    """One that draws passes or fails by chance, and is the same to the grade and to whoever is shown it."""
    program = "import random\ndef add(a, b):\n    return a + b + random.SystemRandom().randrange(2)"
    assert len({graded(program).score for _ in range(12)}) == 1


def test_a_loop_of_assertions_is_one_check():
    tests = "for a in range(9):\n    assert add(a, a) == 2 * a\nassert add(1, 0) == 1"
    assert graded("def add(a, b):\n    return a + b", tests).extracted == "(2 of 2 tests passed)"
    assert graded("def add(a, b):\n    return a", tests).score == 0.5


def test_part_of_the_tests_is_part_of_the_score_and_the_first_failure_is_told():
    grade = graded("def add(a, b):\n    return abs(a) + abs(b)")
    assert not grade.correct and grade.score == pytest.approx(2 / 3)
    assert grade.extracted == "(2 of 3 tests passed; first failure: assert add(-1, 1) == 0: AssertionError)"


@pytest.mark.parametrize(("program", "said"), [
    ("def add(a, b) return a", "SyntaxError"),
    ("def plus(a, b):\n    return a + b", "NameError: name 'add' is not defined"),
    ("raise ValueError('no')", "ValueError: no"),
    ("import sys\nsys.exit(0)", "SystemExit: 0"),
    ("def add(a, b):\n    return add(a, b)", "RecursionError"),
    ("def add(a, b):\n    return ' ' * 10**11", "MemoryError"),
])  # fmt: skip
def test_what_is_wrong_with_it_is_said(program, said):
    grade = graded(program)
    assert not grade.correct and grade.score == 0.0 and said in grade.extracted


@pytest.mark.parametrize("program", [
    "import os\nos._exit(0)",
    "while True: pass",
    "import os\nfor number in range(3, 64):\n    try: os.write(number, b'{\"passed\": 3, \"total\": 3, \"failure\": \"\"}\\n')\n"
    "    except OSError: pass\nos._exit(0)",
])  # fmt: skip
def test_a_program_that_ends_the_process_or_answers_for_the_tests_is_wrong(program, monkeypatch):
    monkeypatch.setattr("opsd_core.graders.unit_tests.CPU_SECONDS", 1)
    grade = graded(program)
    assert not grade.correct and grade.score == 0.0 and grade.note.startswith("unit tests: ")


@pytest.mark.parametrize("wanted", [
    "import socket\nsocket.create_connection(('127.0.0.1', 9))",
    "import subprocess\nsubprocess.run(['true'])",
    "import os\nos.system('true')",
    "import os\nos.fork()",
    "import ctypes\nctypes.CDLL(None)",
    "open('{secret}').read()",
    "open('{secret}', 'a').write('x')",
    "import os\nos.remove('{secret}')",
    "import shutil\nshutil.rmtree('{folder}')",
    "import os\nos.kill(os.getppid(), 9)",
])  # fmt: skip
def test_a_program_reaches_neither_network_nor_processes_nor_files(wanted, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    program = wanted.format(secret=secret, folder=tmp_path) + "\ndef add(a, b):\n    return a + b"
    grade = graded(program)
    assert not grade.correct and "DeniedError" in grade.extracted
    assert secret.read_text() == "secret"


def test_a_program_may_write_in_its_own_folder_and_import_the_library():
    program = "import json, random, re, collections\nopen('x.txt', 'w').write('3')\ndef add(a, b):\n    return a + b"
    assert graded(program).correct


def test_a_program_sees_no_variable_of_this_process(monkeypatch):
    monkeypatch.setenv("OPSD_SECRET", "hidden")
    program = "import os\nassert 'OPSD_SECRET' not in os.environ\ndef add(a, b):\n    return a + b"
    assert graded(program).correct


def test_the_program_is_the_last_block_of_python():
    assert program_of("```python\na\n```\nbetter:\n```py\nb\n```\n```text\nno\n```") == "b"
    assert program_of("```\na\n```") == "a" and program_of("x = 1") == "x = 1" and program_of("```python\ncut off") == "cut off"
    assert program_of("```sql\nselect\n```") is None and program_of("") is None
    assert program_of("<think>```python\nwrong\n```</think>```python\nright\n```") == "right"


def test_an_item_without_tests_is_refused_by_field():
    assert refuses(example()) == ""
    with pytest.raises(DataError, match=r"data\.grader=unit_tests cannot judge 2 of 2 items.*no Python \(SyntaxError"):
        check_gradable([example("def"), example("x = 1")], "unit_tests")
    assert "no assertion" in refuses(example("x = 1"))


def test_the_worker_imports_the_standard_library_alone():
    """It is run by path, in isolation, where nothing of this project can be imported."""
    import ast
    from pathlib import Path

    import opsd_core.graders.code_worker as worker

    tree = ast.parse(Path(worker.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_feedback_shows_the_teacher_the_first_failure():
    """In the grader's words, where any other grader's verdict is about the final answer."""
    data = {"source": "rows.jsonl", "grader": "unit_tests"}
    config = resolve("tiny", {"data": data, "teacher": {"context": "feedback", "template": "{{ privileged_context }}"}})
    builder, item = PromptBuilder.of(tiny_tokenizer(), config), example()
    texts = ["```python\ndef add(a, b):\n    return 3\n```", "```python\ndef add(a, b):\n    return a + b\n```"]
    made = [rollout_of(item.id, index, text) for index, text in enumerate(texts)]
    keys = {(item.id, index): bool(index) for index in range(2)}
    shown = [builder.tokenizer.decode(ids) for ids in teacher_prompts(builder, made, keys, [item]).ids.values()]
    assert "it is wrong (1 of 3 tests passed; first failure: assert add(-1, 1) == 0: assertionerror)." in shown[0].lower()
