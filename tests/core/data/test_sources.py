"""pytest tests/core/data/test_sources.py — the table of sources: folders, globs, nested Parquet, s3 and https files, presets."""

import datetime
import json
import os
import ssl
import subprocess
import sys
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from opsd_core.config import DataConfig, resolve
from opsd_core.config.kinds.columns import COLUMN_PRESETS
from opsd_core.config.kinds.sources import FILE_FORMATS, SOURCE_KINDS, source_kind
from opsd_core.data import load_examples
from opsd_core.data.files import reader
from opsd_core.data.remote import download, web_content
from opsd_core.errors import ConfigError, DataError
from opsd_core.graders import GRADERS


def rows(start: int, end: int) -> list[dict]:
    return [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(start, end)]


def lines(items: list[dict]) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def load(source, **changes):
    shares = {"validation_fraction": 0.4, "test_fraction": 0.0, "max_unusable_fraction": 0.5}
    return load_examples(DataConfig.model_validate({"source": str(source), **shares, **changes}))


def answers(data) -> dict[str, str]:
    return {example.question: example.answer for example in data.train + data.validation + data.test}


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("tiny:addition", "addition"),
        ("reasoning_gym:gcd", "reasoning_gym"),
        ("s3://bucket/d.csv", "s3"),
        ("https://host/d.csv", "https"),
        ("d.csv", "files"),
        ("./folder", "files"),
        ("shards/*.parquet", "files"),
        ("openai/gsm8k", "hub"),
        ("gsm8k", "hub"),
        ("http://host/d.csv", "unknown"),
        ("ftp://host/d.csv", "unknown"),
    ],
)
def test_the_table_knows_every_source(source, kind):
    assert source_kind(source) is SOURCE_KINDS[kind]


def test_every_entry_of_the_tables_has_a_reader_and_a_grader():
    for entry in (*SOURCE_KINDS.values(), *FILE_FORMATS.values()):
        assert callable(reader(entry.reader))
    assert {kind.grader for kind in SOURCE_KINDS.values()} <= set(GRADERS)


def test_shards_of_a_folder_are_one_data_set_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b.jsonl").write_text(lines(rows(20, 40)) + "{broken\n")
    (tmp_path / "a.jsonl").write_text(lines(rows(0, 20)))
    (tmp_path / "c.jsonl.gz").write_bytes(b"")
    (tmp_path / "README.md").write_text("words")
    (tmp_path / "c.jsonl.gz").unlink()
    data = load(tmp_path)
    assert (data.report.num_examples, data.report.num_unusable) == (40, 1)
    assert data.report.unusable[0].place == "row 40 (line 21 of b.jsonl)"
    account = " | ".join(data.report.lines())
    assert "2 files are read: a.jsonl, b.jsonl" in account and "not read in the folder: README.md" in account
    assert answers(load(tmp_path / "[ab].jsonl")) == answers(data) == answers(load(tmp_path / "*.jsonl"))
    assert len(answers(load(tmp_path / "a*"))) == 20


def test_packed_and_plain_shards_of_one_format_stand_together(tmp_path):
    (tmp_path / "a.csv").write_text(
        "question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in rows(0, 20))
    )
    packed = "answer;question\n" + "".join(f"{r['answer']};{r['question']}\n" for r in rows(20, 40))
    (tmp_path / "b.csv.zst").write_bytes(pyarrow.Codec("zstd").compress(packed.encode(), asbytes=True))
    assert answers(load(tmp_path)) == {r["question"]: r["answer"] for r in rows(0, 40)}


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, "", "is a folder without files that are read"),
        ({"README.md": "x"}, "", "is a folder without files"),
        ({"a.jsonl": "{}", "b.csv": "question,answer\n"}, "", r"several formats \(.csv, .jsonl\)"),
        ({"a.jsonl": lines(rows(0, 30)), "b.jsonl": ""}, "", "b.jsonl is empty"),
        ({"a.csv": "question,answer\nq,1\n", "b.csv": "q,a\n1,2\n"}, "", r"b.csv has no column 'question', 'answer'"),
        ({"a.jsonl": "{}"}, "*.parquet", "is a glob without files"),
        ({}, "absent.jsonl", "does not exist"),
    ],
)
def test_folders_that_cannot_be_read_are_refused(tmp_path, files, source, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load(tmp_path / source if source else tmp_path)


def test_parquet_values_and_places_inside_columns(tmp_path):
    count = 20
    table = pyarrow.table(
        {
            "prompt": [[{"role": "user", "content": f"q{i}"}] for i in range(count)],
            "reward_model": [{"ground_truth": str(i), "style": "rule"} for i in range(count)],
            "float": pyarrow.array([0.1] * count, pyarrow.float32()),
            "double": pyarrow.array([0.1 + i for i in range(count)]),
            "decimal": pyarrow.array([Decimal("1.50")] * count),
            "list": pyarrow.array([[1, 2]] * count),
            "date": pyarrow.array([datetime.date(2026, 1, 31)] * count),
            "tiny": pyarrow.array([1e-7] * count),
            "gone": pyarrow.array([None] * count, pyarrow.float32()),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    verl = load(tmp_path / "d.parquet")
    assert answers(verl) == {f"q{i}": str(i) for i in range(count)}
    assert "layout verl" in verl.report.notes[0] and verl.report.columns["answer"] == "reward_model.ground_truth"
    question = "prompt[-1].content"
    for pair, texts in {("list", "float"): ("1, 2", "0.1"), ("date", "decimal"): ("2026-01-31", "1.50")}.items():
        data = load(tmp_path / "d.parquet", columns={"question": question, "answer": pair[0], "solution": pair[1]})
        assert {(example.answer, example.solution) for example in data.train} == {texts}
    data = load(tmp_path / "d.parquet", columns={"question": question, "answer": "double", "solution": "tiny"})
    assert {e.question: (e.answer, e.solution) for e in data.train + data.validation}["q2"] == ("2.1", "0.0000001")
    with pytest.raises(DataError, match="20 x no value in column 'gone'"):
        load(tmp_path / "d.parquet", columns={"question": question, "answer": "gone"})
    with pytest.raises(DataError, match=r"column 'reward_model' holds struct.*reward_model\.field"):
        load(tmp_path / "d.parquet", columns={"question": question, "answer": "reward_model"})


def test_a_column_twice_in_parquet_is_refused(tmp_path):
    columns = [pyarrow.array([f"q{i}" for i in range(20)]), pyarrow.array(["1"] * 20), pyarrow.array(["2"] * 20)]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_arrays(columns, ["question", "answer", "answer"]), tmp_path / "d.parquet"
    )
    with pytest.raises(DataError, match="more than one column named 'answer'"):
        load(tmp_path / "d.parquet")


@pytest.mark.parametrize("damage", [slice(0, -1), slice(4, None)])
def test_torn_parquet_is_refused(tmp_path, damage):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(0, 30)), tmp_path / "d.parquet")
    (tmp_path / "d.parquet").write_bytes((tmp_path / "d.parquet").read_bytes()[damage])
    with pytest.raises(DataError, match=r"cannot be read as Parquet|crashes its reader"):
        load(tmp_path / "d.parquet")


def test_no_row_of_a_file_is_left_out_by_a_recipe(tmp_path):
    (tmp_path / "d.jsonl").write_text(lines(rows(0, 12_000)))
    for recipe in ("demo", "tiny"):
        config = resolve(recipe, {"data": {"source": str(tmp_path / "d.jsonl")}}).data
        assert (config.size, config.options, config.grader) == (None, {}, "auto")
        assert load_examples(config).report.num_examples == 12_000
    assert resolve("demo").data.size == 2500 and resolve("tiny").data.size == 10_000


def test_rows_after_size_are_counted(tmp_path):
    (tmp_path / "d.jsonl").write_text(lines(rows(0, 40)) + "{broken\n" * 5)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(0, 45)), tmp_path / "d.parquet")
    for name in ("d.jsonl", "d.parquet"):
        report = load(tmp_path / name, size=40).report
        assert (report.num_rows, report.num_not_read, report.num_unusable) == (40, 5, 0)
        assert "Not read: 5 rows (data.size)." in report.lines()


def test_https_files_are_refused_in_one_paragraph_without_a_network(tmp_path):
    program = (
        "import sys; from opsd_core.config import DataConfig; from opsd_core.data import load_examples; "
        "load_examples(DataConfig(source=sys.argv[1]))"
    )
    environment = {**os.environ, "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", program, "https://host.invalid/d.jsonl?x=1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    message = done.stderr.strip().splitlines()[-1]
    assert "DataError: data.source=https://host.invalid/d.jsonl?x=1 cannot be fetched" in message
    assert "no network here (then use a local file" in message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://host/page.html", "does not end as a file that is read"),
        ("https://user:secret@host/d.csv", "holds a password"),
        ("http://host/d.csv", "of no known kind.*use https://"),
        ("ftp://host/d.csv", "of no known kind"),
        ("s3://bucket/d.csv", "needs an object store"),
    ],
)
def test_addresses_that_are_not_fetched(source, message):
    with pytest.raises(DataError, match=message) as error:
        load(source)
    assert "secret" not in str(error.value)


def test_a_download_is_bounded_and_never_leaves_https(tmp_path, https_server):
    url = https_server({"/d.csv": b"question,answer\n" * 1000, "/moved.csv": "http://127.0.0.1:9/d.csv"})
    download(f"{url}/d.csv", tmp_path / "d.csv")
    assert (tmp_path / "d.csv").stat().st_size == 16_000
    with pytest.raises(DataError, match=r"more than 9,999 bytes or takes more than"):
        download(f"{url}/d.csv", tmp_path / "e.csv", most=9999)
    with pytest.raises(DataError, match=r"cannot be fetched.*not https"):
        download(f"{url}/moved.csv", tmp_path / "f.csv")
    with pytest.raises(DataError, match="cannot be fetched: Not Found"):
        download(f"{url}/absent.csv", tmp_path / "g.csv")


def test_the_state_of_a_web_file_is_what_its_server_says_or_its_bytes(https_server):
    page, tag = b"question,answer\n1,2\n", {"ETag": '"a1"', "Content-Length": "20"}
    dated = {"Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
    url = https_server({"/plain.csv": page, "/silent.csv": page}, {"/tagged.csv": tag, "/dated.csv": dated, "/silent.csv": {}})
    assert web_content(f"{url}/tagged.csv") == {"etag": '"a1"', "bytes": "20"}
    assert web_content(f"{url}/dated.csv") == {"last_modified": dated["Last-Modified"]}
    plain = web_content(f"{url}/plain.csv")  # describes no file; the other describes it without a mark
    assert plain == web_content(f"{url}/silent.csv") and set(plain) == {"sha256"}
    https_server({"/plain.csv": page + b"3,4\n"}, {"/tagged.csv": tag | {"ETag": '"b2"'}})
    assert web_content(f"{url}/plain.csv") != plain and web_content(f"{url}/tagged.csv")["etag"] == '"b2"'
    for wrong in (f"{url}/absent.csv", f"{url}/page.html", url.replace("https://", "https://user:secret@") + "/plain.csv"):
        with pytest.raises(DataError, match=r"cannot be fetched|does not end as|holds a password") as caught:
            web_content(wrong)
        assert "secret" not in str(caught.value)


@pytest.fixture
def https_server(tmp_path, monkeypatch):
    """A server with a certificate of its own that this process trusts; a text stands for a redirect."""
    import http.server
    import threading

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    pages: dict = {}
    marks: dict = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200 if self.path in marks else 501 if self.path in pages else 404)
            for name, value in marks.get(self.path, {}).items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self):
            page = pages.get(self.path)
            self.send_response(404 if page is None else 302 if isinstance(page, str) else 200)
            if isinstance(page, str):
                self.send_header("Location", page)
            self.send_header("Content-Length", str(len(page) if isinstance(page, bytes) else 0))
            self.end_headers()
            if isinstance(page, bytes):
                self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def start(content: dict, described: dict | None = None) -> str:
        pages.update(content)
        marks.update(described or {})
        return f"https://127.0.0.1:{server.server_port}"

    yield start
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", COLUMN_PRESETS)
def test_a_named_preset_is_what_the_rules_and_the_stored_configuration_see(name):
    config = DataConfig(source="d.jsonl", columns={"preset": name})
    assert {key: getattr(config.columns, key) for key in ("question", "solution", "answer")} == COLUMN_PRESETS[
        name
    ].columns
    assert DataConfig.model_validate_json(config.model_dump_json()) == config
    own = DataConfig(source="d.jsonl", columns={"preset": name, "solution": "mine"}).columns
    assert (own.solution, own.question) == ("mine", COLUMN_PRESETS[name].question)


def test_presets_and_encodings_that_do_not_exist_are_named():
    with pytest.raises(ConfigError, match=r"data.columns.preset='verll' is no known layout.*verl"):
        resolve("demo", {"data": {"source": "d.jsonl", "columns": {"preset": "verll"}}})
    with pytest.raises(ValidationError, match=r"data.encoding='latin-99' is no encoding"):
        DataConfig(source="d.jsonl", encoding="latin-99")
    with pytest.raises(ValidationError, match="no encoding"):
        DataConfig(source="d.jsonl", encoding="base64")
