"""pytest tests/tasks/runtime/test_library_folders.py — odd TMPDIR and HF_HOME are used, or refused by name before any work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opsd_core.disk import HUB, TEMPORARY
from opsd_core.errors import ConfigError, OpsdError
from tasks.runtime.library_folders import check_library_folders

ROOT = Path(__file__).resolve().parents[3]
CHECK = """
import os, tempfile
from opsd_core.errors import OpsdError
from tasks.runtime.library_folders import check_library_folders
try:
    check_library_folders()
    with tempfile.NamedTemporaryFile() as file:
        print(file.name)
except OpsdError as error:
    print("refused:", error)
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


@pytest.mark.parametrize("text", ["file", "file/below", "loop", "line\nbreak", "end ", "b" * 300])
@pytest.mark.parametrize("name", [*TEMPORARY, *HUB])
def test_what_can_be_no_folder_is_refused_by_its_variable(place, name, text):
    with pytest.raises(ConfigError, match=f"^{name}=.*"):
        check_library_folders({name: f"{place}/{text}"})


@pytest.mark.parametrize("name", [*TEMPORARY, *HUB])
def test_addresses_people_who_are_nobody_and_places_where_nothing_can_be_made_are_refused(name):
    for text in ("s3://bucket/x", "~nobody-of-this-name/x", *(["/proc/none"] if name in TEMPORARY else [])):
        with pytest.raises(ConfigError, match=f"^{name}="):
            check_library_folders({name: text})


def test_missing_relative_and_odd_folders_are_made_absolute_and_used(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    for text, meant in (("a/b", "a/b"), ("~/c", "c"), ("with spaces", "with spaces"), ("ünïcödé", "ünïcödé")):
        environ = {"TMPDIR": text, "HF_HOME": text}
        check_library_folders(environ)
        assert environ == {"TMPDIR": str(place / meant), "HF_HOME": text} and (place / meant).is_dir()
    check_library_folders({"TMPDIR": "", "HF_HOME": "$HOME/cache"})
    assert not (place / "cache").exists()


def in_a_process(text, before="true"):
    """Where temporary files are written in a process with this TMPDIR, or how it is refused."""
    inner = [sys.executable, "-c", CHECK]
    shell = ["bash", "-c", f'{before} && exec "$@"', "bash", *inner]
    command = ["unshare", "--user", "--map-root-user", "--mount", *shell] if before != "true" else inner
    environ = {**os.environ, "TMPDIR": text, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_python_writes_where_the_variable_says(place):
    assert in_a_process(f"{place}/new/folder").startswith(f"{place}/new/folder/")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(
    ("options", "after", "said"),
    [
        ("size=1m", "true", "has 1 MB free for temporary files"),
        ("size=1m", "(head -c 2m /dev/zero > $TMPDIR/x; true)", "the disk is full"),
        ("size=100m,ro", "true", "the file system is read-only"),
    ],
)
def test_a_full_or_read_only_folder_is_refused_and_no_other_one_is_filled(place, options, after, said):
    (place / "small").mkdir()
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("this machine allows no user namespaces")
    told = in_a_process(f"{place}/small", f"mount -t tmpfs -o {options} tmpfs $TMPDIR && {after}")
    assert told.startswith("refused: ") and said in told and "TMPDIR" in told and f"{place}/small" in told


@pytest.mark.slow
def test_a_hub_whose_folder_cannot_be_written_is_named(place):
    """Where nothing looked at HF_HOME before, as in a notebook that uses opsd_core alone."""
    program = (
        "from opsd_core.config import DataConfig, ModelConfig\nfrom opsd_core.data import load_examples\n"
        "from opsd_core.models.policy import load_policy\nfrom opsd_core.errors import OpsdError\n"
        "for load in (lambda: load_policy('nobody/nothing', ModelConfig(source='nobody/nothing', device='cpu')),\n"
        "             lambda: load_examples(DataConfig(source='nobody/nothing', grader='exact'))):\n"
        "    try:\n        load()\n    except OpsdError as error:\n        print(type(error).__name__, error)\n"
    )
    environ = {**os.environ, "HF_HOME": f"{place}/file", "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ModelError", "DataError"], done.stderr[-2000:]
    assert all("HF_HOME" in line and "a file is where a folder should be" in line for line in lines), lines


def test_errors_are_ours(place):
    for name in (*TEMPORARY, *HUB):
        with pytest.raises(OpsdError):
            check_library_folders({name: "\0"})
