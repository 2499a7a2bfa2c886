"""pytest tests/test_architecture.py — file length, import contracts, what the core drags in, no unsafe loading."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for folder in ("flows", "tasks", "opsd_core", "infra") for path in (ROOT / folder).rglob("*.py"))
_LIMIT = 300


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= _LIMIT, f"{len(lines)} lines; one file holds one concept"
    assert not lines or lines[0].lstrip("r").startswith('"""'), "no module docstring"


def test_import_contracts_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_core_loads_where_no_orchestrator_tracker_or_object_store_is_installed():
    """In a fresh process in which importing one of them fails, third parties' imports included."""
    code = (
        "import importlib, pkgutil, sys, warnings\nwarnings.simplefilter('ignore')\n"
        "sys.modules.update(dict.fromkeys(('prefect', 'mlflow', 'boto3', 'botocore')))\nimport opsd_core\n"
        "for m in pkgutil.walk_packages(opsd_core.__path__, 'opsd_core.'): importlib.import_module(m.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path):
    unsafe = re.compile(
        r"import (pickle|joblib|cloudpickle|dill)|torch\.load\(|safetensors=False|trust_remote_code=True"
    )
    found = [
        line
        for line in path.read_text().splitlines()
        if unsafe.search(line) and not line.lstrip().startswith(("#", '"'))
    ]
    assert not found
