"""pytest tests/core/test_extending.py — docs/extending.md carried out on a copy of the code, with the page's own tests."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "extending.md"


class Block(NamedTuple):
    """One block of the page: a new file, or the lines of a table in a file that exists."""

    section: str
    path: str
    table: str
    code: str


def blocks(text):
    """Every fenced block of Python; its first line says where it belongs."""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        for block in re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL):
            first, _, code = block.partition("\n")
            path, _, table = first.removeprefix("# ").partition(", ")
            yield Block(section.splitlines()[0], path, table, code)


BLOCKS = list(blocks(PAGE.read_text()))
TESTS = [block.path for block in BLOCKS if block.path.startswith("tests/")]


def entries(block):
    """The names that the block gives to its table."""
    return re.findall(r'^    "(\w+)":', block.code, re.MULTILINE)


def carry_out(block, root):
    path = root / block.path
    if not block.table:
        assert not path.exists(), f"{block.path} exists already"
        path.write_text(block.code)
        return
    text, lines = path.read_text(), block.code.splitlines(keepends=True)
    imports = [line for line in lines if line.startswith("from ")]
    text = into(text, rf"^{block.table}\b.*[{{(\[]\n", "".join(line for line in lines if line not in imports))
    path.write_text(into(text, r"(?=^from )", "".join(imports)) if imports else text)


def into(text, place, new):
    """`text` with `new` after the first match of `place`."""
    changed, number = re.subn(place, lambda match: match[0] + new, text, count=1, flags=re.MULTILINE)
    assert number == 1, f"nothing like {place} in the file"
    return changed


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the code with everything on the page done to it."""
    root = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("opsd_core", "tests/core"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    for block in BLOCKS:
        carry_out(block, root)
    return root


@pytest.mark.parametrize("section", sorted({block.section for block in BLOCKS}))
def test_an_addition_is_a_file_its_table_lines_and_a_test(section):
    mine = [block for block in BLOCKS if block.section == section]
    assert [block.path.split("/")[0] for block in mine if not block.table] == ["opsd_core", "tests"]
    added = [entries(block) for block in mine if block.table]
    assert len(added) == 1 and len(added[0]) == 1


def test_the_pages_tests_pass_and_so_do_those_of_every_table(extended):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *TESTS, "tests/core/test_kinds.py"],
        cwd=extended, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    for block in BLOCKS:
        if block.table in ("TEACHER_KINDS", "DIVERGENCE_KINDS"):  # what is tested of every kind is tested of the new one
            assert f"[{entries(block)[0]}] PASSED" in done.stdout
    for path in TESTS:
        assert f"{path}::" in done.stdout
