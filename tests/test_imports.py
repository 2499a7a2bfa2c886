"""pytest tests/test_imports.py — what a fresh process has loaded after an import or a command: counts of work, not of time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"torch", "transformers", "peft", "tokenizers", "safetensors", "huggingface_hub", "sentencepiece", "gguf", "accelerate"}
TABLES = {"pandas", "datasets", "matplotlib", "scipy", "sympy", "pyarrow", "numpy"}
GRADERS = {"reasoning_gym", "math_verify", "antlr4"}
TRACKERS = {"mlflow"}
SERVERS = {"prefect", "boto3", "botocore", "fastapi", "uvicorn"}


def packages_after(code):
    """Top-level packages of the modules that a fresh process has when `code` has run."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    environ = {name: value for name, value in os.environ.items() if name != "_OPSD_COMPLETE"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(json.loads(done.stdout.splitlines()[-1]))


FLOWS = MODELS | TABLES | GRADERS | TRACKERS
CORE = FLOWS | SERVERS


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import flows.iterate, flows.pretrain, flows.replay", FLOWS | STORES),
        ("import flows.study", FLOWS),
        ("import flows.promote, flows.gc", FLOWS),
        ("import opsd, opsd_core\ndir(opsd), dir(opsd_core)", CORE),
        ("import opsd_core.config, opsd_core.study, flows.forms", CORE),
        ("import infra.worker", FLOWS),
        ("import opsd.client, infra.cli.server, infra.cli.watching, infra.cli.outcome", FLOWS),
        ("from infra.cli.app import run\nassert run(['--help']) == 0", CORE),
        ("from infra.cli.app import run\nassert run(['recipes']) == 0", CORE),
        ("from infra.cli.app import run\nassert run(['config', 'tiny', 'iterations=2']) == 0", CORE),
        ("import tasks.context, tasks.exclusive, tasks.refs", FLOWS),
    ],
)
def test_a_fresh_process_loads_only_what_it_uses(code, absent):
    assert not absent & packages_after(code)
