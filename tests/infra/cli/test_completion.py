"""pytest tests/infra/cli/test_completion.py — what a shell offers after `opsd`, by the line that docs/cli.md gives for bash."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.cli.app import cli
from infra.cli.completion import recipes_and_files, setting_paths
from opsd_core.config import RECIPES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text()


def test_bash_completes_commands_options_recipes_files_and_settings(tmp_path):
    bash = shutil.which("bash") or pytest.skip("no bash")
    (tmp_path / "mine.yaml").write_text("recipe: tiny\n")
    (line,) = re.findall(r"^(eval .*bash_source.*?)\s+#", PAGE, re.MULTILINE)
    wanted = {
        "opsd vers": ["versions"],
        "opsd answers mine --ex": ["--export"],
        "opsd run dem": ["demo"],
        "opsd check mi": ["mine.yaml"],
        "opsd run demo rollout.temp": ["rollout.temperature="],
    }
    asked = "\n".join(
        f"COMPREPLY=(); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _opsd_completion opsd; "
        "echo ${COMPREPLY[@]}"
        for words in wanted
    )
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", f"{line}\n{asked}"], env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert [shown.split() for shown in done.stdout.splitlines()] == list(wanted.values()), done.stderr


def test_every_recipe_and_every_setting_is_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [item.value for item in recipes_and_files(None, None, "")] == sorted(RECIPES)
    assert [item.type for item in recipes_and_files(None, None, "no/such/pla")] == ["file"]
    offered = {item.value for item in setting_paths(None, None, "")}
    assert {"iterations=", "model.source=", "model.lora.rank=", "curriculum.schedules="} <= offered and len(offered) > 80
    assert setting_paths(None, None, "no_such") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_of_every_shell_stands_in_help_and_page(shell, capsys):
    assert f"_OPSD_COMPLETE={shell}_source opsd" in PAGE and f"_OPSD_COMPLETE={shell}_source opsd" in cli.epilog
