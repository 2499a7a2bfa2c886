"""Hub ids, read by the hub's own libraries from their caches: as on a machine that fetched once and is now offline."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets

COMMITS = ("1" * 40, "2" * 40)
LOAD = """
import json, sys
from opsd_core.config import ModelConfig
from opsd_core.errors import ModelError
from opsd_core.models.policy import hub_commit, load_policy
for source, revision in json.loads(sys.argv[1]):
    try:
        config = ModelConfig(source=source, revision=revision)
        print(json.dumps([load_policy(source, config).model.num_parameters(), hub_commit(config)]))
    except ModelError as error:
        print(json.dumps(str(error)))
"""
DATA = """
import json, sys
from opsd_core.config import DataConfig
from opsd_core.data import load_examples
from opsd_core.errors import DataError
for source, columns in json.loads(sys.argv[1]):
    try:
        data = load_examples(DataConfig(source=source, columns=columns))
        print(json.dumps({e.question: e.answer for e in data.train + data.validation + data.test}))
    except DataError as error:
        print(json.dumps(str(error)))
"""


def loaded(home: Path, program: str, *asked: tuple) -> list:
    """What a fresh process without a network gets for each."""
    environ = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, json.dumps(asked)]
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
    asked = [("acme/tiny", None), ("acme/tiny", COMMITS[0]), (str(tiny_model), None), ("acme/other", None)]
    main, pinned, local, absent = loaded(tmp_path, LOAD, *asked)
    assert [main[1], pinned[1], local[1]] == [COMMITS[1], COMMITS[0], None]
    assert main[0] == pinned[0] == local[0]
    assert "model.source='acme/other'" in absent


def test_a_hub_dataset_is_loaded_with_its_columns(tmp_path):
    rows = [{"problem": f"{n}+1=", "answer": str(n + 1)} for n in range(50)]
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets.load_dataset("json", data_files=str(file), cache_dir=str(tmp_path / "made"))
    made = next((tmp_path / "made").rglob("json-train.arrow"))
    cached_as = tmp_path / "datasets" / "acme___sums" / "default" / "0.0.0" / COMMITS[0]
    cached_as.mkdir(parents=True)
    shutil.copy(made, cached_as / "sums-train.arrow")
    described = json.loads((made.parent / "dataset_info.json").read_text()) | {"dataset_name": "sums", "config_name": "default"}
    (cached_as / "dataset_info.json").write_text(json.dumps(described))
    asked = [("acme/sums", {"question": "problem"}), ("acme/sums", {}), ("acme/sums", {"preset": "none"}), ("acme/other", {})]
    whole, recognised, column, absent = loaded(tmp_path, DATA, *asked)
    assert whole == recognised == {row["problem"]: row["answer"] for row in rows}
    assert "question" in column and "problem" in column
    assert "data.source=acme/other" in absent and "Hugging Face hub" in absent
