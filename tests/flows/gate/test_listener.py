"""pytest tests/flows/gate/test_listener.py — the listener of docs/operations.md, read out of the page, follows the champion."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.promote import promote, rollback
from tasks.context import store
from tests.flows.test_approval import judged

pytestmark = pytest.mark.timeout(600)
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text()


def program() -> str:
    (found,) = [code for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if "listen.py" in code]
    return found


def test_the_listener_of_the_page_says_what_to_serve_after_every_move_and_every_refusal(stack, tmp_path):
    store().ensure_bucket()
    shipped, _ = judged("listened", 0, 40, "auto")
    script = tmp_path / "listen.py"
    script.write_text(program())
    command = [sys.executable, "-u", str(script), "listened"]
    listener = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    said: list[str] = []
    threading.Thread(target=lambda: said.extend(iter(listener.stdout.readline, "")), daemon=True).start()

    def heard(text: str, version: int) -> None:
        deadline = time.monotonic() + 120
        while not any(text in line and line.endswith(f"serving version {version}\n") for line in said):
            assert time.monotonic() < deadline and listener.poll() is None, "".join(said)
            time.sleep(0.2)

    try:
        heard("serving", shipped)
        rollback(name="listened", reason="odd in production", who="ada")
        heard(f"version {shipped - 1} is champion again (before: {shipped}), by ada: odd in production ->", shipped - 1)
        promote(name="listened", version=shipped, reason="it was the cache", who="bob")
        heard("by bob: it was the cache ->", shipped)
        judged("not-listened", 0, 40, "auto")
        refused, _ = judged("listened", 1, 45, "auto")
        heard(f"listened: version {refused} refused: ", shipped)
        assert not any("not-listened" in line for line in said)
    finally:
        listener.terminate()
        listener.wait(30)
