"""pytest tests/core/answers/test_page.py — the page of answers: what it holds, what it bounds, and that no text escapes it."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from opsd_core.answers import Answers, Side, render
from opsd_core.answers import page as page_module
from opsd_core.answers.page import embedded, page_data
from opsd_core.answers.tokens import along_positions, divergence_curve, drawn, reader
from opsd_core.teacher.scoring import divergence_along
from tests.core.answers.made import HOSTILE, examples, outcomes, sampled
from tests.core.small import small_tokenizer

ROOT = Path(__file__).resolve().parents[3]


def made(number=30, completions=20, text=HOSTILE, **more):
    right = set(range(0, number, 2)), set(range(0, number, 3))
    sides = [
        Side(n, outcomes(number, r, text=text.replace("{", "(") + " {0}")) for n, r in zip("ab", right, strict=True)
    ]
    return Answers(HOSTILE, examples(number, HOSTILE, HOSTILE + "{0}"), sides, sampled=sampled(completions), **more)


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.texts = [], [], {}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def handle_endtag(self, tag):
        self.open = self.open[:-1]


def _read(html):
    reader = _Reader()
    reader.feed(html)
    return reader


def test_no_text_of_a_model_becomes_markup():
    html = render(
        made(sentences=[HOSTILE], alarms=[HOSTILE], facts=[(HOSTILE, HOSTILE)], links=[(HOSTILE, "http://a/")])
    )
    page = _read(html)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 2 and not {"img", "svg", "iframe", "a"} & set(tags)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1]
    assert block.isascii() and not set("<>&") & set(block)
    data = json.loads(block)
    assert data["title"] == HOSTILE and data["items"][0]["answers"][0]["text"].startswith("</script>")


def test_the_policy_allows_the_one_script_and_the_one_style_and_nothing_else():
    import base64
    import hashlib

    html = render(made())
    (policy,) = [a["content"] for tag, a in _read(html).tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and "unsafe" not in policy and rules["form-action"] == "'none'"
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        code = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)[-1]
        assert rules[name] == "'sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() + "'"
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", html)


@pytest.mark.parametrize("value", [HOSTILE, "\ud800", "\x00\x1f", "</SCRIPT", "<!--<script>", "\u2029", {"<a>": ["&"]}])
def test_whatever_is_embedded_comes_out_as_it_was(value):
    text = embedded(value)
    assert json.loads(text) == value and not set("<>&\u2028\u2029") & set(text)


def test_only_web_addresses_become_links():
    links = [("x", "javascript:alert(1)"), ("y", "data:text/html,1"), ("z", "https://example.org/")]
    assert page_data(made(links=links))["links"] == [["z", "https://example.org/"]]


def test_ten_thousand_items_make_a_page_that_says_what_it_shows():
    number = 10_000
    changed = {1, 2, 3}
    text = "long " * 120
    right = set(range(5000)), set(range(5000)) - changed
    sides = [Side(name, outcomes(number, those, text=text)) for name, those in zip("ab", right, strict=True)]
    answers = Answers("many", examples(number), sides)
    data = page_data(answers)
    assert data["num_items"] == number > len(data["items"]) > 500
    kinds = [(i["answers"][0]["right"], i["answers"][1]["right"]) for i in data["items"]]
    assert kinds[:3] == [(True, False)] * 3 and set(kinds[3:]) == {(True, True), (False, False)}
    assert data["totals"]["1"]["kinds"] == {
        "wrong→right": 0,
        "right→wrong": 3,
        "right→right": 4997,
        "wrong→wrong": 5000,
    }
    assert len(render(answers)) < 5_000_000


def test_one_endless_answer_is_cut_and_says_so():
    sides = [Side("a", outcomes(2, {0}, text="x" * 100_000)), Side("b", outcomes(2, {1}))]
    shown = page_data(Answers("t", examples(2), sides))["items"]
    assert len(shown) == 2 and all("[… 92,000 characters more]" in item["answers"][0]["text"] for item in shown)


def test_completions_come_in_turns_from_every_outcome_and_their_tokens_are_what_was_recorded():
    given = sampled(100)
    data = page_data(made(number=100, completions=100))
    rows = data["completions"]
    assert len(rows) == page_module.MAX_COMPLETIONS and data["num_completions"] == 100
    seen = {tuple(row["states"]) for row in rows}
    assert seen == {tuple(row["states"]) for row in page_data(made(100, 100))["completions"]} and len(seen) >= 6
    states = {state for row in rows for state in row["states"]}
    assert states == {"right", "wrong", "cut", "trained on", "dropped: too_long"}
    first = drawn(given)[0]
    row, target = rows[0], given.targets[first.key]
    assert row["id"] == first.example_id
    assert [data["vocabulary"][i] for i in row["ids"]] == [given.token_text(i) for i in first.completion_ids]
    assert np.allclose(np.array(row["t"]) / 100, target.sampled_logprob_T, atol=0.006)
    best = first.topk_ids_TK[0][first.topk_logprobs_TK[0].argmax()]
    assert data["vocabulary"][row["S"][0][0]] == given.token_text(best) and len(row["T"][0]) == 8


def test_without_targets_the_page_says_nothing_of_the_teacher():
    given = sampled(5)
    given.targets.clear()
    answers = Answers("t", examples(5), [Side("a", outcomes(5, {0})), Side("b", outcomes(5, {1}))], sampled=given)
    data = page_data(answers)
    assert all(row["t"] is None and row["T"] is None and row["s"] for row in data["completions"])
    assert data["curve"] == {"points": [], "completions": 0, "of": 0}


def test_an_impossible_token_is_a_number_that_json_has():
    given = sampled(1)
    given.rollouts[0].logprobs_T[0] = -np.inf
    given.targets[given.rollouts[0].key].sampled_logprob_T[1] = np.nan
    row = page_data(
        Answers("t", examples(2), [Side("a", outcomes(2, {0})), Side("b", outcomes(2, {1}))], sampled=given)
    )
    assert row["completions"][0]["s"][0] == -99999 and row["completions"][0]["t"][1] is None


def test_the_curve_is_the_mean_divergence_at_each_position():
    given = sampled(8)
    by_hand = np.mean([divergence_along(r, given.targets[r.key]) for r in given.rollouts], axis=0)
    curve = divergence_curve(given)
    assert curve["completions"] == curve["of"] == 8
    assert np.allclose([mean for mean, _, _ in curve["points"]], by_hand, atol=1e-5)
    assert along_positions([np.ones(3), np.zeros(2)]) == [[0.5, 0.5, 2], [0.5, 0.5, 2], [1.0, 0.0, 1]]
    assert along_positions([]) == []


def test_without_labels_nothing_is_right_or_wrong():
    data = page_data(made(labelled=False))
    assert data["totals"] == data["slices"] == {} and data["items"]


def test_a_study_has_one_side_per_arm():
    sides = [Side(name, outcomes(20, set(range(k)))) for name, k in (("base", 5), ("opsd", 12), ("sft", 3))]
    data = page_data(Answers("study", examples(20), sides))
    assert data["sides"] == ["base", "opsd", "sft"] and set(data["totals"]) == set(data["slices"]) == {"1", "2"}
    assert data["totals"]["2"]["kinds"]["right→wrong"] == 2 and len(data["items"][0]["answers"]) == 3


def test_items_that_one_side_lacks_are_left_out_in_words():
    sides = [Side("a", outcomes(10, {0})), Side("b", outcomes(7, {1}))]
    left_out = page_data(Answers("t", examples(10), sides))["left_out"]
    assert left_out == "Compared are the 7 items that all sides answered; a answered 10."


def test_tokens_keep_their_spaces_and_control_tokens_their_names():
    text = reader(small_tokenizer())
    assert [text(i) for i in (0, 2, 3)] == ["<eos>", "0", "1"]


@pytest.mark.slow
def test_a_wheel_holds_the_page(tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("opsd_core", "tasks", "flows", "infra"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        tmp_path,
        tmp_path,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"opsd_core/answers/page.{kind}" for kind in ("html", "css", "js")} | {"opsd_core/study/page.html"} <= names


def test_every_file_that_the_page_reads_is_package_data():
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["opsd_core"]
    shipped = {path for pattern in patterns for path in (ROOT / "opsd_core").glob(pattern)}
    others = {p for p in (ROOT / "opsd_core").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert others == shipped and len(shipped) >= 4
