"""pytest tests/core/data/test_globs.py — patterns find what `glob` finds, and end: on whole disks, in circles."""

import glob
import os
import time
from pathlib import Path

import pytest

from opsd_core.config import DataConfig
from opsd_core.data import load_examples
from opsd_core.data.globs import matching
from opsd_core.errors import DataError


@pytest.fixture
def tree(tmp_path):
    for name in ("a.jsonl", "b/c.jsonl", "b/d/e.jsonl", "b/d/.h.jsonl", ".hidden/f.jsonl", "b/[x].jsonl", "g/x y.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"question": "q", "answer": "1"}\n')
    (tmp_path / "linked").symlink_to(tmp_path / "b" / "d")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        *("*.jsonl", "**/*.jsonl", "b/**", "**", "b/**/e.jsonl", "*/*.jsonl", "b/[[]x].jsonl", "b/[!c].*", "?.jsonl", ".h*/*"),
        *("**/d/**/*.jsonl", "b/../b/*.jsonl", "**/**/*.jsonl", "b/d/.*", "g/* *.jsonl", "z/*"),
    ],
)
def test_a_pattern_finds_the_files_that_glob_finds(tree, pattern):
    known = map(Path, glob.glob(str(tree / pattern), recursive=True))  # noqa: PTH207 - what it is compared with
    expected = {os.path.realpath(path) for path in known if path.is_file()}
    found = [path for path in matching(str(tree / pattern)) if path.is_file()]
    assert {os.path.realpath(path) for path in found} == expected


def test_relative_patterns_start_where_one_is(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert sorted(map(str, matching("b/*.jsonl"))) == ["b/[x].jsonl", "b/c.jsonl"]


def test_links_in_circles_end_and_folders_are_looked_through_once(tmp_path):
    """Ten links to the folder itself are ten to the power of forty paths."""
    (tmp_path / "a.jsonl").write_text("{}\n")
    for number in range(10):
        (tmp_path / f"link{number}").symlink_to(tmp_path)
    begin = time.process_time()
    found = list(matching(str(tmp_path / "**" / "**" / "**" / "*.jsonl")))
    assert {path.name for path in found} == {"a.jsonl"} and time.process_time() - begin < 2


def test_a_pattern_that_means_a_whole_disk_is_refused_by_its_field(tmp_path):
    begin = time.process_time()
    with pytest.raises(DataError, match=r"data\.source=/\*\*/\*\.jsonl looks through more than 2,000 files.*Name the folder"):
        list(matching("/**/*.jsonl", most=2000))
    for number in range(40):
        (tmp_path / f"{number}").mkdir()
    with pytest.raises(DataError, match="more than 30 files"):
        list(matching(str(tmp_path / "*" / "*.jsonl"), most=30))
    assert time.process_time() - begin < 5


def test_patterns_made_to_backtrack_are_fast(tmp_path):
    (tmp_path / ("a" * 200)).write_text("")
    begin = time.process_time()
    assert list(matching(str(tmp_path / ("*a" * 60 + "b")))) == []
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("pattern", ["[", "[!", "*" * 3000, "**" * 500, "a/**/\udcff*"])
def test_odd_patterns_are_refused_in_words(tmp_path, pattern):
    with pytest.raises(DataError, match=r"data\.source="):
        load_examples(DataConfig(source=f"{tmp_path}/{pattern}.jsonl"))
