"""A hub id, read by huggingface_hub itself from its cache: as on a machine that fetched the model once and is now offline."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

COMMITS = ("1" * 40, "2" * 40)
LOAD = """
import json, sys
from opsd_core.config import ModelConfig
from opsd_core.errors import ModelError
from opsd_core.models import hub_commit, load_policy
for source, revision in json.loads(sys.argv[1]):
    try:
        config = ModelConfig(source=source, revision=revision)
        print(json.dumps([load_policy(source, config).model.num_parameters(), hub_commit(config)]))
    except ModelError as error:
        print(json.dumps(str(error)))
"""


def loaded(home: Path, *asked: tuple[str, str | None]) -> list:
    """What a fresh process gets for each (source, revision)."""
    environ = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def cached(home: Path, tiny_model: Path) -> None:
    """Two commits of one model in the layout of the hub's cache; `main` is the second."""
    repository = home / "hub" / "models--acme--tiny"
    for commit in COMMITS:
        shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMITS[1])


def test_a_hub_id_is_loaded_and_its_commit_is_known(tmp_path, tiny_model):
    cached(tmp_path, tiny_model)
    main, pinned, local, absent = loaded(
        tmp_path, ("acme/tiny", None), ("acme/tiny", COMMITS[0]), (str(tiny_model), None), ("acme/other", None)
    )
    assert [main[1], pinned[1], local[1]] == [COMMITS[1], COMMITS[0], None]
    assert main[0] == pinned[0] == local[0]
    assert "model.source='acme/other'" in absent
