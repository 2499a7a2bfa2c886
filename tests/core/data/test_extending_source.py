"""pytest tests/core/data/test_extending_source.py — a data source and a file format are added as docs/extending.md says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import opsd_core

ROOT = Path(opsd_core.__file__).resolve().parent.parent

SOURCE = '''"""`squares:<n>`: what is i squared, for i below n."""

from collections.abc import Iterator

from opsd_core.config import ColumnMapping
from opsd_core.data.records import Asked, Opened, RawRow
from opsd_core.errors import DataError


def read(asked: Asked) -> Opened:
    """DataError when n is no number."""
    number = asked.config.source.partition(":")[2]
    if not number.isdigit():
        raise DataError(f"data.source={asked.config.source}: {number!r} is no number. Write squares:100.")

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        for i in range(int(number)):
            yield RawRow(i, {"question": f"What is {i} squared?", "answer": str(i * i)})

    return Opened(rows, columns=ColumnMapping())
'''
SOURCE_LINE = """    "squares": SourceKind("squares.read", _begins("squares:"), "squares:<n>", generated=True, grader="numeric"),
"""
FORMAT = '''"""`question => answer`, one a line: .pairs."""

from collections.abc import Iterator
from pathlib import Path

from opsd_core.config import ColumnMapping
from opsd_core.data.records import Asked, Opened, RawRow
from opsd_core.data.formats.text import lines, open_text, text_encoding


def read(path: Path, asked: Asked) -> Opened:
    """DataError as `text_encoding`."""
    encoding = text_encoding(path, asked)

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        with open_text(path, encoding) as text:
            for line in lines(text):
                question, arrow, answer = line.text.partition("=>")
                trouble = line.trouble or ("" if arrow else "no => in the line")
                yield RawRow(line.number - 1, {"question": question, "answer": answer}, {}, trouble, line.number)

    return Opened(rows, {"question": "", "answer": ""})
'''
FORMAT_LINE = """    ".pairs": FileFormat("formats.pairs.read"),
"""
TEST = """
import gzip, sys
from pathlib import Path
from opsd_core.config import DataConfig, resolve
from opsd_core.data import load_examples
from opsd_core.errors import DataError
from opsd_core.graders import grader_name

config = DataConfig(source="squares:60")
report = load_examples(config).report
assert (report.num_examples, report.num_unusable) == (60, 0), report
assert grader_name(config) == "numeric"
resolve("tiny", {"data": {"source": "squares:60", "columns": {"answer": ""}}})  # the rules know that it brings answers
try:
    load_examples(DataConfig(source="squares:many"))
    sys.exit("not refused")
except DataError as error:
    assert "squares:100" in str(error)

content = "".join(f"{i} + {i} => {2 * i}\\n" for i in range(60)) + "broken\\n"
for name, data in {"d.pairs": content.encode(), "d.pairs.gz": gzip.compress(content.encode())}.items():
    Path(sys.argv[1], name).write_bytes(data)
    report = load_examples(DataConfig(source=str(Path(sys.argv[1], name)))).report
    assert (report.num_examples, report.num_unusable, report.unusable[0].line) == (60, 1, 61), report
"""


def add_line(table: Path, after: str, line: str) -> None:
    """Insert one line behind the one that ends with `after`."""
    text = table.read_text()
    assert text.count(after) == 1
    table.write_text(text.replace(after, after + line))


def test_one_file_and_one_table_line_add_a_source_and_a_format(tmp_path):
    package = tmp_path / "opsd_core"
    shutil.copytree(ROOT / "opsd_core", package, ignore=shutil.ignore_patterns("__pycache__"))
    table = package / "config" / "kinds" / "sources.py"
    (package / "data" / "squares.py").write_text(SOURCE)
    add_line(table, "SOURCE_KINDS: dict[str, SourceKind] = {\n", SOURCE_LINE)
    (package / "data" / "formats" / "pairs.py").write_text(FORMAT)
    add_line(table, "FILE_FORMATS: dict[str, FileFormat] = {\n", FORMAT_LINE)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", TEST, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
