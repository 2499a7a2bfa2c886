"""The revision that is saved with a run is that of the code, wherever its data lie."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.runtime import environment

CODE = Path(environment.__file__)


@pytest.fixture(autouse=True)
def asked_anew():
    environment.git_revision.cache_clear()
    yield
    environment.git_revision.cache_clear()


def commit_of(folder: Path) -> None:
    """A repository in `folder` with one commit, of a file of its own."""
    (folder / "other.txt").write_text("another project")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "other.txt"], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)


def test_revision_is_the_codes_and_not_that_of_the_folder_with_the_data(tmp_path, monkeypatch):
    tracked = subprocess.run(["git", "-C", str(CODE.parent), "rev-parse", "HEAD"], capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("the code is not in a git checkout")
    commit_of(tmp_path)
    monkeypatch.setenv("OPSD_HOME", str(tmp_path))
    assert environment.git_revision().removesuffix("+dirty") == tracked.stdout.strip()


def test_code_that_a_repository_does_not_track_has_the_revision_of_its_image(tmp_path, monkeypatch):
    commit_of(tmp_path)
    monkeypatch.delenv("OPSD_GIT_REVISION", raising=False)
    monkeypatch.setattr(environment, "_HERE", Path(shutil.copy(CODE, tmp_path)))
    assert environment.git_revision() == "unknown"
    environment.git_revision.cache_clear()
    monkeypatch.setenv("OPSD_GIT_REVISION", "0123abc")
    assert environment.git_revision() == "0123abc"
