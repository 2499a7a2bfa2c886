"""pytest tests/core/graders/test_readable.py — what is wrong with a data file is said without a model."""

import json

import pytest

from opsd_core.config import DataConfig
from opsd_core.errors import DataError
from opsd_core.graders import readable
from opsd_core.graders.readable import check_readable


def _file(folder, rows):
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_file_that_cannot_be_used_is_refused_and_one_that_can_is_not(tmp_path):
    good = [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(40)]
    check_readable(DataConfig(source=_file(tmp_path, good), grader="numeric"))
    with pytest.raises(DataError, match="anser"):
        check_readable(DataConfig(source=_file(tmp_path, good), columns={"answer": "anser"}))
    words = [{"question": f"{n}", "answer": "no number"} for n in range(40)]
    with pytest.raises(DataError, match=r"data\.grader=numeric cannot judge 40 of 40 items"):
        check_readable(DataConfig(source=_file(tmp_path, words), grader="numeric"))
    check_readable(DataConfig(source=_file(tmp_path, words), grader="numeric"), graded=False)


def test_what_is_far_away_absent_or_huge_is_left_for_later(tmp_path, monkeypatch):
    for source in ("owner/name", "s3://bucket/file.jsonl", str(tmp_path / "absent.jsonl"), "tiny:addition"):
        check_readable(DataConfig(source=source))
    source = _file(tmp_path, [{"nothing": 1}])
    monkeypatch.setattr(readable, "MOST_BYTES", 3)
    check_readable(DataConfig(source=source))
