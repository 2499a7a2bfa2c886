"""pytest tests/test_imports.py — what a fresh process has loaded after an import or a command: counts of work, not of time."""

import ast
import json
import os
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"torch", "transformers", "peft", "tokenizers", "safetensors", "huggingface_hub", "sentencepiece", "gguf", "accelerate"}
TABLES = {"pandas", "datasets", "matplotlib", "scipy", "sympy", "pyarrow", "numpy"}
GRADERS = {"reasoning_gym", "math_verify", "antlr4"}
TRACKERS = {"mlflow"}
STORES = {"boto3", "botocore"}
SERVERS = {"prefect", "fastapi", "uvicorn"} | STORES


def packages_after(code):
    """Top-level packages of the modules that a fresh process has when `code` has run."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    environ = {name: value for name, value in os.environ.items() if name != "_OPSD_COMPLETE"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(json.loads(done.stdout.splitlines()[-1]))


FLOWS = MODELS | TABLES | GRADERS | TRACKERS | STORES
CORE = FLOWS | SERVERS


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import flows.iterate, flows.pretrain, flows.replay", FLOWS),
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
    assert sorted(absent & packages_after(code)) == []


def test_a_campaign_that_works_has_loaded_every_stage_before_the_first():
    code = "from flows import stages\nstages.load_all()\nimport sys\nassert set(stages.MODULES) <= set(sys.modules)"
    assert MODELS & packages_after(code)


@pytest.mark.parametrize("name", ["flows.stages", "opsd_core.data"])
def test_what_type_checkers_and_contracts_read_is_what_a_door_hands_out(name):
    module = import_module(name)
    blocks = [node for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.If)]
    written = {alias.name: node.module for block in blocks for node in block.body for alias in node.names}
    assert sorted(written) == module.__all__ == dir(module)
    for handed_out, home in written.items():
        assert getattr(module, handed_out) is getattr(import_module(home), handed_out)
    with pytest.raises(AttributeError, match=f"{name}.*nothing_like_it.*{module.__all__[0]}"):
        module.nothing_like_it  # noqa: B018


def test_every_name_of_the_public_doors_exists_and_survives_a_pickle():
    for module in (import_module("opsd_core"), import_module("opsd")):
        for name in dir(module):
            found = getattr(module, name)
            assert name == "client" or pickle.loads(pickle.dumps(found)) is found
    with pytest.raises(ImportError):
        exec("from opsd_core import nothing_like_it")
