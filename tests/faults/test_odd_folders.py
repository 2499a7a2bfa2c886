"""pytest -m slow tests/faults/test_odd_folders.py — campaigns whose TMPDIR or HF_HOME is odd, or fills up in the middle."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
CAMPAIGN = """
import os, sys, threading, time
from pathlib import Path
from tests.disk import fill

def fill_when_begun():
    while "preflight" not in Path(sys.argv[2]).read_text():
        time.sleep(0.05)
    while True:  # whatever is freed meanwhile
        fill(Path(os.environ["TMPDIR"]) / "ballast")
        time.sleep(1.0)

if sys.argv[3] == "fill":
    threading.Thread(target=fill_when_begun, daemon=True).start()
from flows.iterate import iterate
small = {"data": {"size": 120, "validation_fraction": 0.3}, "optimizer": {"batch_size": 4}, "evaluation": {"num_items": 12}}
for dry_run in (True, False):
    iterate(recipe="tiny", name=sys.argv[1], iterations=1, num_prompts=16, num_steps=2, overrides=small, dry_run=dry_run)
print("both ended")
"""


def campaign(tmp_path, name, environ, fill="no", mount=""):
    """What a dry run and a campaign in a process of their own print."""
    (tmp_path / "campaign.py").write_text(CAMPAIGN)
    log = tmp_path / "log"
    command = [sys.executable, "-P", str(tmp_path / "campaign.py"), name, str(log), fill]
    if mount:
        command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", f'{mount} && exec "$@"', "bash", *command]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OPSD_CACHE": str(tmp_path / "cache"), **environ}
    with log.open("wb") as file:
        subprocess.run(command, env=given, cwd=tmp_path, stdout=file, stderr=file, check=False, timeout=900)
    return log.read_text(errors="replace")


@pytest.mark.parametrize(
    "environ",
    [
        {"TMPDIR": "below/the folder ünïcödé", "HF_HOME": "missing ünïcödé"},
        {"TMPDIR": "~/temporary", "HF_HOME": "~/hub", "HOME": "."},
        {"HF_HOME": "/proc/none"},
    ],
)
def test_odd_folders_are_used(stack, tmp_path, environ):
    environ = environ | ({"HOME": str(tmp_path / "home")} if "HOME" in environ else {})
    said = campaign(tmp_path, f"odd-{abs(hash(str(tmp_path)))}", environ)
    assert "both ended" in said, said[-3000:]


@pytest.mark.parametrize("text", ["file", "file/below"])
@pytest.mark.parametrize("variable", ["TMPDIR", "HF_HOME"])
def test_what_is_no_folder_is_refused_by_its_variable(stack, tmp_path, variable, text):
    (tmp_path / "file").write_text("x")
    said = campaign(tmp_path, "refused-folder", {variable: f"{tmp_path}/{text}"})
    assert f"ConfigError: {variable}=" in said and "prepare-model" not in said, said[-3000:]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_folder_for_temporary_files_that_fills_up_in_the_middle_ends_well_or_in_words(stack, tmp_path):
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("this machine allows no user namespaces")
    (tmp_path / "small").mkdir()
    environ, mount = {"TMPDIR": str(tmp_path / "small")}, "mount -t tmpfs -o size=100m tmpfs $TMPDIR"
    said = campaign(tmp_path, "fills-up", environ, "fill", mount)
    print(said[-2000:])
    ended = "both ended" in said
    assert ended or ("ServiceError: Temporary files cannot be written to" in said and "TMPDIR" in said), said[-3000:]
