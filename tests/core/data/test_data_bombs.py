"""pytest tests/core/data/test_data_bombs.py — small files that would fill the memory are refused, or cost one row."""

import gzip
import json
import os
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from opsd_core.config import ColumnMapping, DataConfig
from opsd_core.data import load_examples
from opsd_core.data.clean import clean_rows
from opsd_core.data.formats.json_file import MAX_JSON_BYTES
from opsd_core.data.records import RawRow
from opsd_core.errors import DataError

MEBI = 1 << 20


def load(path, **settings):
    return load_examples(DataConfig(source=str(path), **settings))


def peak_mebibytes(path) -> int:
    """Peak resident memory of a process that loads `path`, minus that of one that only imports."""
    program = (
        "import sys, resource, pyarrow.parquet; from opsd_core.config import DataConfig; "
        "from opsd_core.data import load_examples; peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "before = peak(); report = load_examples(DataConfig(source=sys.argv[1], max_unusable_fraction=0.9)).report; "
        "assert set(report.reasons) == {'over 4,000,000 characters'}; "
        "print((peak() - before) // 1024, report.num_examples)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[1] == "60"
    return int(done.stdout.split()[0])


def test_one_huge_dictionary_value_in_many_rows_costs_its_rows_and_no_memory(tmp_path):
    values = pyarrow.array([*(f"What is {i} + 1?" for i in range(60)), "x" * (32 * MEBI)])
    indices = pyarrow.array(np.r_[np.arange(60), np.full(400, 60)].astype(np.int32))
    table = pyarrow.table(
        {
            "question": pyarrow.DictionaryArray.from_arrays(indices, values),
            "answer": [str(i) for i in range(460)],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet", compression="zstd")
    assert (tmp_path / "d.parquet").stat().st_size < MEBI
    assert peak_mebibytes(tmp_path / "d.parquet") < 400  # 64 copies at a time would be 2048


def test_a_column_that_inflates_too_far_is_refused_from_the_footer(tmp_path):
    table = pyarrow.table({"question": ["x" * MEBI] * 260, "answer": ["1"] * 260})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet", compression="zstd", use_dictionary=False)
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(DataError, match=r"column 'question' has 27\d,\d+,\d+ bytes in one row group, .* times"):
        load(tmp_path / "d.parquet")
    assert pyarrow.total_allocated_bytes() - before < MEBI


def varint(number: int, size: int | None = None) -> bytes:
    """Zigzag varint of thrift's compact protocol, filled up to `size` bytes."""
    left, found = number << 1, []
    while left > 127 or len(found) + 1 < (size or 1):
        found.append(left & 127 | 128)
        left >>= 7
    return bytes([*found, left])


def test_pages_larger_than_the_footer_says_are_refused(tmp_path, monkeypatch):
    table = pyarrow.table({"question": ["x" * MEBI] * 260, "answer": ["1"] * 260})
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False, data_page_size=1 << 30)
    group = pyarrow.parquet.read_metadata(path).row_group(0)
    size = group.column(0).total_uncompressed_size
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    assert whole.count(varint(size), footer) == 1
    path.write_bytes(whole[:footer] + whole[footer:].replace(varint(size), varint(4000, len(varint(size)))))
    assert pyarrow.parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 4000
    assert pyarrow.parquet.read_table(path).num_rows == 260  # pyarrow believes the pages

    monkeypatch.setattr("opsd_core.data.formats.parquet.MAX_READING_BYTES", 192 * MEBI)
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(DataError, match=r"takes more than 201,326,592 bytes of memory to read, which its footer does not say"):
        load(path)
    assert pyarrow.total_allocated_bytes() - before < MEBI


def test_an_encoding_that_repeats_long_prefixes_is_refused(tmp_path, monkeypatch):
    prefix = "x" * (4 * MEBI)
    table = pyarrow.table({"question": [f"{prefix}{i}" for i in range(128)], "answer": ["1"] * 128})
    encodings = {"question": "DELTA_BYTE_ARRAY", "answer": "PLAIN"}
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(table, path, use_dictionary=False, column_encoding=encodings)
    assert pyarrow.parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size < 10 * MEBI
    monkeypatch.setattr("opsd_core.data.formats.parquet.MAX_READING_BYTES", 192 * MEBI)
    with pytest.raises(DataError, match=r"takes more than 201,326,592 bytes"):
        load(path)


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_texts_in_every_encoding_are_read(tmp_path, encoding):
    table = pyarrow.table({"question": [f"What is {i}?" for i in range(40)], "answer": [str(i) for i in range(40)]})
    encodings = {"question": encoding, "answer": encoding}
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet", use_dictionary=False, column_encoding=encodings)
    assert load(tmp_path / "d.parquet").report.num_examples == 40


def test_columns_that_are_not_read_may_be_anything(tmp_path):
    items = {"question": [f"q{i}" for i in range(40)], "answer": ["1"] * 40, "other": [[{"a": [i]}] for i in range(40)]}
    pyarrow.parquet.write_table(pyarrow.table(items), tmp_path / "d.parquet")
    assert load(tmp_path / "d.parquet").report.num_examples == 40
    with pytest.raises(DataError, match=r"column 'other' holds list<.*not text or a number"):
        load(tmp_path / "d.parquet", columns={"question": "other"})


def test_parquet_values_come_as_they_are(tmp_path):
    items = {"question": [f"q{i}" for i in range(40)], "answer": [None, 3, 4, 5] * 10}
    pyarrow.parquet.write_table(pyarrow.table(items), tmp_path / "d.parquet", row_group_size=7)
    report = load(tmp_path / "d.parquet", max_unusable_fraction=0.3).report
    assert (report.num_examples, report.reasons) == (30, {"no value in column 'answer'": 10})


def test_bytes_that_are_not_text_cost_a_row(tmp_path):
    questions = pyarrow.array([b"\xff\xfe", *(b"q%d" % i for i in range(40))]).cast(pyarrow.binary())
    table = pyarrow.table({"question": questions.view(pyarrow.utf8()), "answer": ["1"] * 41})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    assert load(tmp_path / "d.parquet", max_unusable_fraction=0.1).report.num_unusable == 1


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000, '{"question": ' + "[" * 50_000 + "]" * 50_000 + "}"])
def test_deeply_nested_json_is_refused_or_costs_a_row(tmp_path, deep):
    (tmp_path / "d.json").write_text(deep)
    with pytest.raises(DataError, match="not valid JSON"):
        load(tmp_path / "d.json")
    good = [json.dumps({"question": f"q{i}", "answer": str(i)}) for i in range(40)]
    (tmp_path / "d.jsonl").write_text("\n".join([*good, deep]))
    report = load(tmp_path / "d.jsonl").report
    assert (report.num_unusable, report.num_examples) == (1, 40)


def test_a_json_file_too_large_to_parse_is_refused_unread(tmp_path):
    with (tmp_path / "d.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # sparse: it takes no disk
    with pytest.raises(DataError, match=r"is not parsed at once"):
        load(tmp_path / "d.json")


def test_a_csv_file_without_line_ends_is_refused(tmp_path):
    (tmp_path / "d.csv").write_text("question,answer\n" + "q," * 3_000_000)
    with pytest.raises(DataError, match=r"line 2 has more than 4,000,000 characters"):
        load(tmp_path / "d.csv")


def test_all_texts_together_are_bounded():
    rows = [RawRow(i, {"question": f"{i:1000d}", "answer": "1"}) for i in range(20)]
    assert len(clean_rows(rows, ColumnMapping(), max_chars=20_100).examples) == 20
    with pytest.raises(DataError, match=r"the first 11 rows hold .* characters of text, at most 10,100 .* data.size"):
        rows = [RawRow(i, {"question": "q" * 1000 + str(i), "answer": "1"}) for i in range(20)]
        clean_rows(rows, ColumnMapping(), max_chars=10_100)


def test_a_header_of_very_many_columns_is_read_at_once(tmp_path):
    names = ["question", "answer", *(f"c{number}" for number in range(100_000))]
    rows = [",".join([f"q{number}", str(number), *[""] * 100_000]) for number in range(30)]
    (tmp_path / "wide.csv").write_text("\n".join([",".join(names), *rows]))
    begin = time.process_time()
    assert len(load(tmp_path / "wide.csv").train) > 10
    (tmp_path / "same.csv").write_text(",".join(["question", "answer", *["c"] * 500_000]) + "\nq,1\n")
    with pytest.raises(DataError, match=r"more than one column named 'c' \(columns 3, 4") as caught:
        load(tmp_path / "same.csv")
    assert len(str(caught.value)) < 500 and time.process_time() - begin < 60


@pytest.mark.parametrize("source", ["/" + "a" * 300 + ".jsonl", "/" + "b" * 4000 + ".jsonl"])
def test_a_path_that_can_be_none_is_refused_by_its_field(source):
    with pytest.raises(DataError, match=r"data\.source=.*(is no path|does not exist)"):
        load(source)


@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_what_is_no_plain_file_is_never_opened(tmp_path, kind):
    path = tmp_path / "a.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(DataError, match=r"data\.source=.*does not exist"):
        load(path)


BOMBS = {
    "blank lines": (b"\n", r"lines up to line 1,000,001 of a file are blank"),
    "spaces": (b"  \n", r"of a file are blank"),
    "words": (b"x\n", r"100000 of 100000 rows \(100\.0%\) cannot be used.*not JSON"),
    "lists": (b"[]\n", r"rows \(100\.0%\) cannot be used.*a JSON list"),
    "the same row": (b'{"question": "q", "answer": "1"}\n', r"holds one item, 9\d+ times over"),
    "one line": (b"{" * 4096, r"over 4,000,000 characters"),
    "zero bytes": (b"\0" * 4096, r"cannot be used|blank"),
    "zero bytes in lines": (b"\0\n", r"rows \(100\.0%\) cannot be used"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl"])
def test_files_of_many_megabytes_that_hold_nothing_end_soon(tmp_path, name, suffix):
    piece, said = BOMBS[name]
    path, size = tmp_path / f"d{suffix}", 8 * MEBI if len(piece) > 40 else 3 * 10**5 if len(piece) > 4 else 1_100_000 * len(piece)
    with gzip.open(path, "wb", 1) if suffix.endswith("gz") else path.open("wb") as file:
        for _ in range(24):
            file.write(piece * (size // 24 // len(piece)))
    begin = time.process_time()
    with pytest.raises(DataError, match=said) as caught:
        load(path)
    assert time.process_time() - begin < 20 and len(str(caught.value)) < 2000


def test_unusable_rows_are_counted_and_not_kept(tmp_path):
    good = "".join(json.dumps({"question": f"q{i}", "answer": str(i)}) + "\n" for i in range(50))
    (tmp_path / "d.jsonl").write_text(good + "[]\n" * 60_000)
    report = load(tmp_path / "d.jsonl", max_unusable_fraction=1.0).report
    assert report.num_unusable == 60_000 and len(report.unusable) == 100 and report.num_examples == 50


def test_every_role_of_a_message_is_not_remembered(tmp_path):
    lines = []
    for i in range(3000):
        messages = [{"role": f"r{i}", "content": "c"}, {"role": "user", "content": f"q{i}"}]
        lines.append(json.dumps({"messages": messages, "answer": "1"}))
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    assert len(load(tmp_path / "d.jsonl", columns={"question": "messages[user].content"}).report.notes) < 150
