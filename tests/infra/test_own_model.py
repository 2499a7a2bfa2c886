"""pytest tests/infra/test_own_model.py — docs/own-model.md: its ten commands, one after the other, read out of the page.

By default on the tiny model with a small campaign; with the page's own model, data and settings it is marked slow.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from infra.cli.app import run as opsd
from tests.doc_names import commands

pytestmark = pytest.mark.timeout(5400)
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own-model.md").read_text()
SMALL = {
    "recipe": "tiny",
    "model": {"source": "tiny"},
    "prompts": {},
    "rollout": {"num_prompts": 32},
    "optimizer": {"num_steps": 2, "batch_size": 8},
    "evaluation": {"num_items": 12},
}
"""Over the page's settings; name, data, columns, iterations, shards and promotion stay the page's."""


def block(language, number=0):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[number]



@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory):
    """The present folder is one that holds nothing yet."""
    folder, before = tmp_path_factory.mktemp("own"), Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def written_out():
    """The page's commands that stand in blocks of their own, in their order."""
    text = "".join(f"```bash\n{part}```\n" for part in re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    return [words for words in commands(text) if words]


def test_the_page_has_ten_commands():
    assert len(written_out()) == 10
    assert [words[1] for words in written_out() if words[0] == "opsd"] == [
        "up", "check", "run", "answers", "versions", "promote", "export", "serve", "chat",
    ]  # fmt: skip


def small_files():
    settings = yaml.safe_load(block("yaml")) | SMALL
    settings["data"] |= {"grader": "exact"}
    Path("mine.yaml").write_text(yaml.safe_dump(settings))
    rows = [{"prompt": f"{a:02d}+{b:02d}=", "final": f"{a + b:03d}"[::-1]} for a in range(20) for b in range(20)]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def page_files():
    Path("mine.yaml").write_text(block("yaml"))
    exec(compile(block("python"), "docs/own-model.md", "exec"), {})


@pytest.mark.parametrize("files", [small_files, pytest.param(page_files, marks=pytest.mark.slow)])
def test_every_command_of_the_page_does_what_it_says(worker, in_a_folder, files, capsys, monkeypatch):
    pytest.importorskip("openai", reason="opsd serve needs the extra `serve`")
    curl = shutil.which("curl") or pytest.skip("no curl")
    files()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    serving, said = None, {}
    try:
        for words in written_out():
            words = [word.replace("8000", port) for word in words]
            if words[:2] == ["opsd", "serve"]:
                serving = subprocess.Popen([Path(sys.executable).with_name("opsd"), *words[1:]])
            elif words[0] == "curl":
                said["curl"] = asked([curl, *words[1:]], serving)
            else:
                monkeypatch.setattr(sys, "stdin", io.StringIO("12+34=\n\n"))
                status = opsd(words[1:])
                said[words[1]] = capsys.readouterr().out
                assert status == (words[1] == "check" and "**Problem:**" in said["check"]), said[words[1]]
    finally:
        if serving is not None:
            serving.terminate()
            serving.wait(timeout=60)
    check(said)


def asked(command, serving):
    """What curl prints once the server answers."""
    deadline = time.monotonic() + 600
    while serving.poll() is None and time.monotonic() < deadline:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 and '"choices"' in done.stdout:
            return done.stdout
        time.sleep(1)
    raise AssertionError(f"the server gave no answer: {done.stdout} {done.stderr}")


def check(said):
    assert "Everything runs already" in said["up"] and "# mine: dry run" in said["check"]
    assert "iteration 0: version 2 " in said["run"] and "accuracy" in said["run"]
    by_hand = "Waits for a person: version 2 of mine. To decide: opsd promote mine 2\n"
    assert "Not promoted: " in said["run"] or by_hand in said["run"]
    assert "</html>" in Path("answers.html").read_text()
    assert {path.name for path in Path("answers").iterdir()} == {"completions.jsonl", "dataset", "before.json", "after.json"}
    assert said["versions"].splitlines()[2].split()[:2] == ["2", "candidate"]
    assert said["promote"].strip() == "mine: version 2 is champion (before: 1)"
    assert (Path("mine-champion") / "model.safetensors").is_file() and "verified" in said["export"]
    answer = json.loads(said["curl"])
    assert answer["model"].startswith("mine") and answer["choices"][0]["message"]["role"] == "assistant"
    assert said["chat"].count("mine> ") == 1
