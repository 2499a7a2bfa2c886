"""pytest tests/core/test_example.py — a whole iteration with opsd_core alone, as examples/without_servers.py shows it."""

import ast
import subprocess
import sys
from pathlib import Path

import opsd_core

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "examples" / "without_servers.py"


def test_an_iteration_without_servers_ends_in_a_verdict(tmp_path):
    """In a process in which no orchestrator, tracker or object store can be imported; two optimiser steps instead of fifty."""
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(('prefect', 'mlflow', 'boto3', 'botocore')))\n"
        "from pathlib import Path\nsys.path.insert(0, 'examples')\nfrom without_servers import main\n"
        "small = {'optimizer': {'num_steps': 2}, 'rollout': {'num_prompts': 32}, 'evaluation': {'num_items': 9}}\n"
        f"print(main(Path({str(tmp_path)!r}), **small))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "version candidate against champion champion" in done.stdout and "completions are trained on" in done.stdout
    assert (tmp_path / "candidate" / "model.safetensors").is_file()


def test_it_is_short_and_uses_what_the_package_offers():
    source = EXAMPLE.read_text()
    used = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute) and _of_opsd(node)}
    assert len(source.splitlines()) < 60 and used <= set(dir(opsd_core))
    assert all(getattr(opsd_core, name) is not None for name in dir(opsd_core))


def _of_opsd(node):
    return isinstance(node.value, ast.Name) and node.value.id == "opsd"
