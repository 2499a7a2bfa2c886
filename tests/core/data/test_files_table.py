"""pytest tests/core/data/test_files_table.py — bytes of a file -> rows used, rows counted, or a refusal that says why."""

import codecs
import csv
import gzip
import io
import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_core.config import DataConfig
from opsd_core.data import load_examples
from opsd_core.errors import DataError, OpsdError

NUM_GOOD = 14
OBJECTS = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(NUM_GOOD)]
JSONL = "".join(json.dumps(row) + "\n" for row in OBJECTS)
CSV = "question,answer\n" + "".join(f"What is {i} + 1?,{i + 1}\n" for i in range(NUM_GOOD))


@dataclass(frozen=True)
class Case:
    """One file. `used` and `counted` count rows; `holds` are examples that must be there; `says` a pattern of the account."""

    file: str
    content: bytes | str
    used: int = NUM_GOOD
    counted: int = 0
    holds: dict[str, str] = field(default_factory=dict)
    says: str = ""
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """One file that must not be read, and a pattern of the message."""

    file: str
    content: bytes | str
    message: str
    settings: dict = field(default_factory=dict)


def jsonl(*values) -> str:
    return JSONL + "".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values)


def answer(text: str) -> str:
    """JSONL with one more row whose answer is written as `text`."""
    return jsonl('{"question": "q", "answer": ' + text + "}")


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


def rows_of(columns) -> str:
    """JSONL of another layout: `columns` makes an object of question and answer."""
    return "".join(json.dumps(columns(row["question"], row["answer"])) + "\n" for row in OBJECTS)


def chat(question, reply) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


FIRST = {"What is 0 + 1?": "1"}
MORE = NUM_GOOD + 1

CASES = {
    # packing and names
    "plain jsonl": Case("d.jsonl", JSONL, holds=FIRST),
    "ndjson": Case("d.ndjson", JSONL, holds=FIRST),
    "upper case suffix": Case("D.JSONL", JSONL, holds=FIRST),
    "jsonl.gz": Case("d.jsonl.gz", gzip.compress(JSONL.encode()), holds=FIRST),
    "gzip of two members": Case(
        "d.jsonl.gz", gzip.compress(JSONL.encode()) + gzip.compress(answer("7").encode()[len(JSONL) :]), MORE
    ),
    "gzip under a plain name": Case("d.jsonl", gzip.compress(JSONL.encode()), holds=FIRST),
    "json.gz": Case("d.json.gz", gzip.compress(json.dumps(OBJECTS).encode()), holds=FIRST),
    "csv.gz": Case("d.csv.gz", gzip.compress(CSV.encode()), holds=FIRST),
    "jsonl.zst": Case("d.jsonl.zst", zstd(JSONL.encode()), holds=FIRST),
    "csv.zst": Case("d.csv.zst", zstd(CSV.encode()), holds=FIRST),
    "tsv.gz": Case("d.tsv.gz", gzip.compress(CSV.replace(",", "\t").encode()), holds=FIRST),
    # encodings
    "utf-8 mark": Case("d.csv", codecs.BOM_UTF8 + CSV.encode(), holds=FIRST),
    "utf-8 mark in jsonl": Case("d.jsonl", codecs.BOM_UTF8 + JSONL.encode(), holds=FIRST),
    "utf-16 with mark": Case("d.csv", CSV.encode("utf-16"), holds=FIRST, says="UTF-16"),
    "utf-16 big end first": Case("d.jsonl", codecs.BOM_UTF16_BE + JSONL.encode("utf-16-be"), holds=FIRST),
    "utf-32 json": Case("d.json", json.dumps(OBJECTS).encode("utf-32"), holds=FIRST),
    "utf-16 without mark, named": Case(
        "d.csv", CSV.encode("utf-16-le"), holds=FIRST, settings={"encoding": "utf-16-le"}
    ),
    "cp1252": Case(
        "d.csv",
        (CSV + "Combien coûte l’été à 5 € ?,déjà\n").encode("cp1252"),
        MORE,
        holds={"Combien coûte l’été à 5 € ?": "déjà"},
        says=r"byte \d+, line 16.*cp1252",
    ),
    "cp1252 in jsonl": Case(
        "d.jsonl",
        (JSONL + '{"question": "Größe?", "answer": "Maß"}\n').encode("cp1252"),
        MORE,
        holds={"Größe?": "Maß"},
    ),
    "french quotes in cp1252": Case(
        "d.csv",
        (CSV + "« Élan » – qui ?,été\n").encode("cp1252"),
        MORE,
        holds={"« Élan » – qui ?".replace(" ", " "): "été"},
    ),
    "cp1251, named": Case(
        "d.csv",
        (CSV + "Сколько?,Два\n").encode("cp1251"),
        MORE,
        holds={"Сколько?": "Два"},
        settings={"encoding": "cp1251"},
    ),
    "one byte among utf-8": Case(
        "d.jsonl",
        jsonl('{"question": "π", "answer": "é"}').encode() + b'{"question": "caf\xe9", "answer": "1"}\n',
        MORE,
        1,
        says=r"not UTF-8: byte 0xe9.*line 16|line 16\): not UTF-8: byte 0xe9",
    ),
    "one byte among utf-8 in csv": Case(
        "d.csv",
        CSV.encode() + "π,3\n".encode() + b"caf\xe9,1\n",
        MORE,
        1,
        says=r"line 17\): not UTF-8",
    ),
    "u+fffd in the source": Case("d.jsonl", answer('"caf\ufffd"'), NUM_GOOD, 1, says=r"line 15\): .*U\+FFFD"),
    "emoji and surrogate pairs": Case("d.jsonl", answer('"\\ud83d\\ude00"'), MORE, holds={"q": "😀"}),
    "nul in json": Case("d.jsonl", answer('"a\\u0000b"'), NUM_GOOD, 1, says="NUL"),
    "nul in csv": Case("d.csv", CSV + "a\x00b,1\n", NUM_GOOD, 1, says=r"line 16\): .*NUL"),
    # csv
    "semicolons": Case("d.csv", CSV.replace(",", ";") + "Half?;0,5\n", MORE, holds={"Half?": "0,5"}, says="semicolon"),
    "tabs in csv": Case("d.csv", CSV.replace(",", "\t"), holds=FIRST, says="tab"),
    "bars": Case("d.csv", CSV.replace(",", "|"), holds=FIRST, says="bar"),
    "tsv": Case("d.tsv", CSV.replace(",", "\t") + "a, b\t1\n", MORE, holds={"a, b": "1"}),
    "excel's sep line": Case("d.csv", "sep=;\r\n" + CSV.replace(",", ";"), holds=FIRST),
    "windows line ends": Case("d.csv", CSV.replace("\n", "\r\n"), holds=FIRST),
    "old mac line ends": Case("d.csv", CSV.replace("\n", "\r"), holds=FIRST),
    "no last line end": Case("d.csv", CSV.rstrip("\n"), holds=FIRST),
    "blank lines": Case("d.csv", "\n\n" + CSV.replace("\n", "\n\n"), holds=FIRST),
    "spaces in the header": Case("d.csv", CSV.replace("question,answer", " question , answer "), holds=FIRST),
    "pandas' unnamed index": Case("d.csv", re.sub("(?m)^(?=.)", "7,", CSV).replace("7,", ",", 1), holds=FIRST),
    "line ends in a field": Case(
        "d.csv", CSV + '"two\nlines",5\n', MORE, holds={"two\nlines": "5"}, says="1 rows go over several lines"
    ),
    "two quotes for one": Case("d.csv", CSV + '"say ""hi""",5\n', MORE, holds={'say "hi"': "5"}),
    "a quote in an open field": Case(
        "d.csv", CSV + 'What is 5" in cm?,12.7\n', MORE, holds={'What is 5" in cm?': "12.7"}
    ),
    "wrong quotes in one line": Case(
        "d.csv", CSV + '"He said "hi" there",5\nlast,6\n', MORE, 1, holds={"last": "6"}, says=r"line 16\): a quote"
    ),
    "wrong quotes over lines": Case(
        "d.csv",
        CSV + '"He said "hi\nthere",5\nlast,6\n',
        MORE,
        2,
        holds={"last": "6"},
        says="quote ends that did not begin",
    ),
    "two tables, one behind the other": Case(
        "d.csv", CSV + CSV.replace("What", "And what"), 2 * NUM_GOOD, 1, says="line 16.*header again"
    ),
    "too few fields": Case(
        "d.csv", CSV + "alone\nlast,6\n", MORE, 1, holds={"last": "6"}, says=r"line 16\): fewer fields.*1 of 2"
    ),
    "too many fields": Case(
        "d.csv", CSV + "a,b,c\nlast,6\n", MORE, 1, holds={"last": "6"}, says=r"line 16\): more fields.*3 of 2"
    ),
    "line numbers after long fields": Case("d.csv", CSV + '"x\ny\nz",1\nalone\n', MORE, 1, says=r"line 19\): fewer"),
    "empty field": Case("d.csv", CSV + "q,\n", NUM_GOOD, 1, says=r"line 16\): column 'answer' is empty"),
    "numbers as written": Case(
        "d.csv",
        CSV + "a,1.50\nb,007\nc,1e-05\nd,3.0\n",
        NUM_GOOD + 4,
        holds={"a": "1.50", "b": "007", "c": "1e-05", "d": "3.0"},
    ),
    # json lines
    "bad line": Case(
        "d.jsonl",
        jsonl("{broken", {"question": "last", "answer": "1"}),
        MORE,
        1,
        holds={"last": "1"},
        says=r"line 15\): not JSON",
    ),
    "torn last line": Case("d.jsonl", JSONL + '{"question": "q", "ans', NUM_GOOD, 1, says=r"line 15\): not JSON"),
    "key twice": Case(
        "d.jsonl",
        jsonl('{"question": "q", "answer": "1", "answer": "2"}'),
        NUM_GOOD,
        1,
        says=r"line 15\): .*'answer' stands twice",
    ),
    "key twice inside": Case(
        "d.jsonl", jsonl('{"question": "q", "answer": "1", "x": {"a": 1, "a": 2}}'), NUM_GOOD, 1, says="stands twice"
    ),
    "two objects in one line": Case(
        "d.jsonl", jsonl('{"question": "q", "answer": "1"} {"question": "r", "answer": "1"}'), NUM_GOOD, 1
    ),
    "blank lines in jsonl": Case("d.jsonl", JSONL.replace("\n", "\n \n"), holds=FIRST),
    "a list for an object": Case("d.jsonl", jsonl([1, 2], "3", "null"), NUM_GOOD, 3, says="not an object"),
    # values
    "decimal": Case("d.jsonl", answer("1.50"), MORE, holds={"q": "1.50"}),
    "tenth": Case("d.jsonl", answer("0.1"), MORE, holds={"q": "0.1"}),
    "many digits": Case("d.jsonl", answer("0.12345678901234567890123"), MORE, holds={"q": "0.12345678901234567890123"}),
    "integer as float": Case("d.jsonl", answer("3.0"), MORE, holds={"q": "3"}),
    "scientific": Case("d.jsonl", answer("1e-05"), MORE, holds={"q": "0.00001"}),
    "scientific, large": Case("d.jsonl", answer("1.5E3"), MORE, holds={"q": "1500"}),
    "scientific zero": Case("d.jsonl", answer("0e7"), MORE, holds={"q": "0"}),
    "exponent out of range": Case("d.jsonl", answer("1e999999999"), NUM_GOOD, 1, says="beyond"),
    "exponent of thousands of digits": Case("d.jsonl", answer("1e" + "9" * 50), NUM_GOOD, 1),
    "NaN": Case("d.jsonl", answer("NaN"), NUM_GOOD, 1, says="no value"),
    "Infinity": Case("d.jsonl", answer("-Infinity"), NUM_GOOD, 1, says="infinite"),
    "null": Case("d.jsonl", answer("null"), NUM_GOOD, 1, says="no value in column 'answer'"),
    "large integer": Case("d.jsonl", answer("1" * 400), MORE, holds={"q": "1" * 400}),
    "integer of 5000 digits": Case("d.jsonl", answer("1" * 5000), MORE, holds={"q": "1" * 5000}),
    "negative zero": Case("d.jsonl", answer("-0.0"), MORE, holds={"q": "0"}),
    "truth value": Case("d.jsonl", answer("true"), MORE, holds={"q": "True"}),
    "list of one": Case("d.jsonl", answer('["7"]'), MORE, holds={"q": "7"}),
    "list of several": Case(
        "d.jsonl", answer("[1, 2.50]"), MORE, holds={"q": "1, 2.50"}, says=r"joined by commas.*answer\[0\]"
    ),
    "list of lists": Case("d.jsonl", answer("[[1], [2]]"), NUM_GOOD, 1, says="list of lists"),
    "list with commas": Case("d.jsonl", answer('["1,000", "2"]'), NUM_GOOD, 1, says="hold commas"),
    "empty list": Case("d.jsonl", answer("[]"), NUM_GOOD, 1, says="is empty"),
    "object": Case("d.jsonl", answer('{"value": 1}'), NUM_GOOD, 1, says=r"is dict.*answer\.name"),
    "duplicates": Case("d.jsonl", JSONL + JSONL, says=f"{NUM_GOOD} duplicates"),
    # json
    "list of objects": Case("d.json", json.dumps(OBJECTS, indent=1), holds=FIRST),
    "data wrapper": Case("d.json", json.dumps({"data": OBJECTS}), holds=FIRST, says="list 'data'"),
    "wrapper with more": Case(
        "d.json", json.dumps({"version": 1, "tags": ["a"], "rows": OBJECTS}), holds=FIRST, says="list 'rows'"
    ),
    "numbers among objects": Case(
        "d.json", json.dumps([*OBJECTS, 3]), NUM_GOOD, 1, says=r"Unusable row 14: a JSON int"
    ),
    # places and layouts
    "verl": Case(
        "d.jsonl",
        rows_of(
            lambda q, a: {
                "prompt": [{"role": "user", "content": q}],
                "reward_model": {"ground_truth": a, "style": "rule"},
            }
        ),
        holds=FIRST,
        says="layout verl",
    ),
    "trl": Case("d.jsonl", rows_of(lambda q, a: {"prompt": q, "completion": a}), holds=FIRST, says="layout trl "),
    "trl, conversational": Case(
        "d.jsonl",
        rows_of(lambda q, a: {"prompt": chat(q, a)[:1], "completion": chat(q, a)[1:]}),
        holds=FIRST,
        says="layout trl_chat",
    ),
    "trl, prompt and answer": Case(
        "d.jsonl", rows_of(lambda q, a: {"prompt": q, "answer": a}), holds=FIRST, says="layout trl_prompt "
    ),
    "open-r1": Case(
        "d.jsonl",
        rows_of(lambda q, a: {"problem": q, "solution": "so " + a, "answer": a, "messages": chat(q, a)}),
        holds=FIRST,
        says="layout open_r1 ",
    ),
    "chat messages": Case(
        "d.jsonl", rows_of(lambda q, a: {"messages": chat(q, a)}), holds=FIRST, says="layout messages"
    ),
    "tinker, named": Case(
        "d.jsonl",
        rows_of(lambda q, a: {"messages": chat(q, a)}),
        holds=FIRST,
        settings={"columns": {"preset": "tinker"}},
    ),
    "sharegpt": Case(
        "d.jsonl",
        rows_of(lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}),
        holds=FIRST,
        says="layout sharegpt",
    ),
    "problem and answer in csv": Case(
        "d.csv", CSV.replace("question", "problem"), holds=FIRST, says="layout problem_answer"
    ),
    "system message": Case(
        "d.jsonl",
        rows_of(lambda q, a: {"messages": [{"role": "system", "content": "s"}, *chat(q, a)]}),
        holds=FIRST,
        says=f"{NUM_GOOD} rows have a message of role 'system', which is not read",
    ),
    "several turns": Case(
        "d.jsonl",
        rows_of(lambda q, a: {"messages": chat(q, a)}) + json.dumps({"messages": chat("a", "b") * 2}) + "\n",
        NUM_GOOD,
        1,
        says="several messages of role 'user'",
    ),
    "dotted path": Case(
        "d.jsonl",
        rows_of(lambda q, a: {"question": q, "extra_info": {"answer": a}}),
        holds=FIRST,
        settings={"columns": {"answer": "extra_info.answer"}},
    ),
    "last message": Case(
        "d.jsonl",
        rows_of(lambda q, a: {"messages": chat(q, a)}),
        holds=FIRST,
        settings={"columns": {"question": "messages[0].content", "answer": "messages[-1].content"}},
    ),
    "column whose name has a dot": Case(
        "d.csv", CSV.replace("answer", "final.answer"), holds=FIRST, settings={"columns": {"answer": "final.answer"}}
    ),
    "column whose name has brackets": Case(
        "d.csv", CSV.replace("answer", "answer [cm]"), holds=FIRST, settings={"columns": {"answer": "answer [cm]"}}
    ),
    "object as text in csv": Case(
        "d.csv",
        "question;info\n" + "".join(f'{row["question"]};{{"answer": {row["answer"]}}}\n' for row in OBJECTS),
        holds=FIRST,
        settings={"columns": {"answer": "info.answer"}},
    ),
    "place that is missing in one row": Case(
        "d.jsonl",
        rows_of(lambda q, a: {"question": q, "x": {"a": a}})
        + '{"question": "q", "x": {}}\n{"question": "r", "x": 3}\n',
        NUM_GOOD,
        2,
        settings={"columns": {"answer": "x.a"}},
        says="'x' is a number, which has no field 'a'",
    ),
    # size
    "size": Case("d.csv", CSV, 10, settings={"size": 10}, says=r"Not read: 4 rows \(data.size\)"),
    "size larger than the file": Case("d.csv", CSV, settings={"size": 100}),
}

REFUSALS = {
    "quote never closed": Refused(
        "d.csv", CSV + '"open,5\n' + "a,1\n" * 50, r"line 16 has a quote that is never closed"
    ),
    "quote closed rows later": Refused("d.csv", CSV + '"open,5\na,1\n"b",2\n', r"row at line 16 has a quote.*up to 18"),
    "quote open in the last line": Refused("d.csv", CSV + '"open', r"line 16 has a quote that is never closed"),
    "quote that goes on": Refused("d.csv", CSV + '"He "said" x,5\n', r"line 16 has a quote"),
    "column twice": Refused(
        "d.csv",
        CSV.replace("question,answer", "question,answer,answer"),
        r"more than one column named 'answer' \(columns 2, 3\)",
    ),
    "column twice but for spaces": Refused(
        "d.csv", CSV.replace("question,answer", "answer, answer"), r"more than one column named 'answer'"
    ),
    "column without a name": Refused(
        "d.csv", CSV.replace("question,answer", "question,,answer"), r"no name for column 2 of 3"
    ),
    "no header": Refused(
        "d.csv",
        CSV.split("\n", 1)[1],
        r"no column 'question', 'answer'. It has: 'What is 0 \+ 1\?', '1'. Its header, line 1",
    ),
    "only a header": Refused("d.csv", "question,answer\n", "has no rows"),
    "only blank lines": Refused("d.csv", "\n\n  \n", "has no rows"),
    "bad byte in the header": Refused(
        "d.csv", b"qu\xe9stion,answer\n" + "π,1\n".encode(), r"header, line 1, is not UTF-8"
    ),
    "cyrillic": Refused(
        "d.csv",
        (CSV + "Сколько будет?,Два\n").encode("cp1251"),
        r"byte \d+, line 16\) and does not read as cp1252.*data.encoding",
    ),
    "polish": Refused("d.csv", (CSV + "Ile był wart złoty?,1\n").encode("cp1250"), r"does not read as cp1252"),
    "utf-8 and cp1252 in one line": Refused(
        "d.csv", CSV.encode() + "π caf".encode() + b"\xe9,1\n", "does not read as cp1252"
    ),
    "japanese": Refused(
        "d.jsonl",
        (JSONL + '{"question": "二足す二は", "answer": "四"}').encode("shift_jis"),
        r"does not read as cp1252",
    ),
    "chinese": Refused("d.csv", (CSV + "二加二等于几,四\n").encode("gbk"), r"does not read as cp1252"),
    "old dos": Refused("d.csv", (CSV + "Schön gewählt?,1\n").encode("cp850"), r"does not read as cp1252"),
    "utf-16 without mark": Refused("d.csv", CSV.encode("utf-16-le"), "NUL|no column"),
    "torn utf-16": Refused("d.csv", CSV.encode("utf-16")[:-1], "is not utf-16 text"),
    "wrong encoding named": Refused(
        "d.csv", CSV.encode() + b"\xff\xff,1\n", "is not ascii text.*data.encoding", {"encoding": "ascii"}
    ),
    "bad byte in json": Refused(
        "d.json", json.dumps(OBJECTS).encode() + "π".encode() + b"\n\xe9", r"not utf-8-sig text at byte \d+ \(line 2\)"
    ),
    "torn gzip": Refused("d.jsonl.gz", gzip.compress(JSONL.encode())[:-20], "is torn or no gzip data"),
    "gzip with a wrong sum": Refused(
        "d.jsonl.gz", gzip.compress(JSONL.encode())[:-8] + bytes(8), "is torn or no gzip data"
    ),
    "gzip with rubbish behind": Refused(
        "d.jsonl.gz", gzip.compress(JSONL.encode()) + b"rubbish", "is torn or no gzip data"
    ),
    "torn zstd": Refused("d.jsonl.zst", zstd(JSONL.encode() * 50)[:-20], "is torn or no zstd data"),
    "named gz, not packed": Refused("d.jsonl.gz", JSONL, "named .gz, but is not packed so"),
    "gzip bomb": Refused("d.jsonl.gz", gzip.compress(bytes(10 << 20) * 30, 1), "unpacks to more than"),
    "zstd bomb": Refused("d.csv.zst", zstd(b"question,answer\n" + b"q,1\n" * (80 << 20)), "unpacks to more than"),
    "json.gz too large": Refused(
        "d.json.gz", gzip.compress(b"[" + b" " * (65 << 20) + b"]", 1), "is not parsed at once"
    ),
    "workbook": Refused("d.csv", b"PK\x03\x04" + bytes(100), "zip archive .an .xlsx"),
    "git lfs pointer": Refused(
        "d.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"
    ),
    "parquet named csv": Refused("d.csv", b"PAR1" + bytes(100), "holds a Parquet file"),
    "key twice in json": Refused(
        "d.json", '[{"question": "q", "answer": "1", "answer": "2"}]', "'answer' stands twice"
    ),
    "torn json": Refused("d.json", json.dumps(OBJECTS)[:-9], "not valid JSON"),
    "lines named json": Refused("d.json", JSONL, "name it .jsonl"),
    "two lists": Refused(
        "d.json", json.dumps({"train": OBJECTS, "test": OBJECTS}), "several lists of objects: 'train', 'test'"
    ),
    "columns of pandas": Refused(
        "d.json", json.dumps({"question": {"0": "q"}, "answer": {"0": "1"}}), "a list of objects is read"
    ),
    "chat in two layouts": Refused(
        "d.jsonl",
        rows_of(lambda q, a: {"messages": chat(q, a), "conversations": [{"from": "human", "value": q}]}),
        r"several layouts fit.*messages.*sharegpt.*data.columns.preset",
    ),
    "two questions": Refused(
        "d.jsonl",
        rows_of(lambda q, a: {"prompt": q, "problem": q, "answer": a}),
        r"several layouts fit.*trl_prompt, problem_answer",
    ),
    "unknown layout": Refused(
        "d.jsonl", rows_of(lambda q, a: {"text": q + a}), "no column 'question', 'answer'. It has: 'text'"
    ),
    "unknown suffix": Refused("d.xlsx", "x", "suffix '.xlsx' is not read"),
    "packed parquet": Refused("d.parquet.gz", gzip.compress(b"PAR1"), "suffix '.parquet.gz' is not read"),
}


def write(folder, file: str, content: bytes | str) -> str:
    (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder / file)


def load(source: str, changes: dict):
    shares = {"validation_fraction": 0.45, "test_fraction": 0.0, "max_unusable_fraction": 0.9}
    return load_examples(DataConfig.model_validate({"source": source, **shares, **changes}))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_row_of_a_file_is_used_or_counted(tmp_path, case):
    data = load(write(tmp_path, case.file, case.content), case.settings)
    report, found = data.report, {e.question: e.answer for e in data.train + data.validation + data.test}
    account = " | ".join(report.lines())
    assert (report.num_examples, report.num_unusable) == (case.used, case.counted), account
    assert report.num_rows == report.num_examples + report.num_unusable + report.num_duplicates
    assert case.holds.items() <= found.items()
    assert re.search(case.says, account), account
    assert not any("\ufffd" in text for pair in found.items() for text in pair)
    json.dumps(report.as_dict())


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_a_file_that_cannot_be_read_whole_is_refused_by_name(tmp_path, case):
    path = write(tmp_path, case.file, case.content)
    with pytest.raises(DataError, match=case.message) as error:
        load(path, case.settings)
    assert "\n" not in str(error.value) and "data.source=" in str(error.value)


def count_lines(content: bytes) -> int:
    """Lines with anything on them, as one sees them who knows nothing but line ends."""
    return sum(bool(line.strip()) for line in re.split(r"\r\n|\r|\n", content.decode("latin-1")))


FRAGMENTS = [
    *(
        b'"',
        b",",
        b"\n",
        b"\r\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"1e5",
        b"\\u0000",
        b"\xe9",
        "é".encode(),
        b"\x00",
        b"\xff\xfe",
    ),
    *(
        b"question",
        b"answer",
        b"null",
        b"NaN",
        b'{"question": "q", "answer": 1}',
        b'{"question": ',
        b"question,answer\n",
        b'"q"',
    ),
    *(
        b" ",
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        b"\xef\xbb\xbf",
        b"9" * 5000,
        b"sep=;\n",
        b";",
        b"\t",
        b'{"messages": [{}]}',
    ),
]
BYTES = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join))
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".csv.zst")
STARTS = {".jsonl": JSONL, ".csv": CSV, ".tsv": CSV.replace(",", "\t")}


@settings(max_examples=300, deadline=None)
@given(BYTES, st.sampled_from(SUFFIXES), st.booleans())
def test_any_bytes_give_rows_or_a_refusal(content, suffix, with_good):
    whole = (STARTS.get(suffix, "") if with_good else "").encode() + content
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), f"d{suffix}", whole)
        try:
            report = load(path, {}).report
        except OpsdError as error:
            assert "data.source=" in str(error)
            return
    assert report.num_rows == report.num_examples + report.num_unusable + report.num_duplicates
    if suffix == ".jsonl" and not whole.startswith((b"\xff\xfe", b"\xef\xbb\xbf")):
        assert report.num_rows == count_lines(whole)


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="#"), min_size=1, max_size=20
)  # an answer is what follows ####


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6), st.sampled_from(",;\t|"))
def test_what_a_csv_writer_writes_comes_back_or_is_counted(pairs, delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([("question", "answer"), *(row.values() for row in OBJECTS), *pairs])
    with tempfile.TemporaryDirectory() as folder:
        data = load(write(Path(folder), "d.csv", out.getvalue().encode("utf-8")), {})
    report, found = data.report, {(e.question, e.answer) for e in data.train + data.validation}
    assert report.num_rows == NUM_GOOD + len(pairs) == report.num_examples + report.num_unusable + report.num_duplicates
    plain = [
        (q.strip(), a.strip())
        for q, a in pairs
        if q.strip() and a.strip() and not re.search("[\x00\ufffd\ud800-\udfff]", q + a)
    ]
    assert set(plain) <= found
