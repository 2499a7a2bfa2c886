"""pytest tests/core/config/test_places.py — what is a path is never taken for a hub id, ~ works, texts may be files."""

from pathlib import Path

import pytest

from opsd_core.config import resolve
from opsd_core.config.kinds.places import is_path
from opsd_core.config.kinds.sources import source_kind
from opsd_core.errors import ConfigError


@pytest.mark.parametrize(
    "address",
    ["./m", "../m", "/m", "~/m", "m.gguf", "a/b/c", "runs/", "my model", "a\\b", "a//b", "größe", "-m", "runs/checkpoint-20"],
)
def test_what_can_only_be_a_path_is_one(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_path(address)
    assert source_kind(address).example.startswith("folder"), "data is read from files, or refused as files"


@pytest.mark.parametrize("address", ["gpt2", "HuggingFaceTB/SmolLM2-135M", "runs/new", "opsd:a@champion", "models:/a/3"])
def test_what_may_be_a_hub_id_or_is_an_address_is_no_path(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_path(address)


def test_a_tilde_is_the_home_folder_in_every_address(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    changes = {
        "model": {"source": "~/model"},
        "data": {"source": "~/train.jsonl"},
        "teacher": {"weights": "external", "source": "~/teacher"},
        "rehearsal": {"share": 0.1, "data": [{"source": "~/other.jsonl"}]},
    }
    config = resolve("base", changes)
    found = [config.model.source, config.data.source, config.teacher.source, config.rehearsal.data[0].source]
    assert found == [str(tmp_path / name) for name in ("model", "train.jsonl", "teacher", "other.jsonl")]
    with pytest.raises(ConfigError, match=r"model.source: '~nobody-here/m' is no path"):
        resolve("base", {"model": {"source": "~nobody-here/m"}, "data": {"source": "x.jsonl"}})


SETTINGS = ("prompts.student", "prompts.system", "teacher.template", "teacher.system", "rollout.reference_completion")


def _with(path: str, value: str) -> dict:
    section, _, leaf = path.partition(".")
    return {section: {leaf: value}}


@pytest.mark.parametrize("path", SETTINGS)
def test_a_template_may_be_a_file_and_one_that_is_not_there_is_refused(path, tmp_path):
    file = tmp_path / "text.jinja"
    file.write_text("{{ question }} {{ privileged_context }}\n" if path.startswith("teacher") else "{{ question }}\n")
    section, _, leaf = path.partition(".")
    assert getattr(getattr(resolve("tiny", _with(path, str(file))), section), leaf) == file.read_text()
    with pytest.raises(ConfigError, match=rf"{path}: the template file 'absent.j2' .*there is no file {Path.cwd()}/absent.j2"):
        resolve("tiny", _with(path, "absent.j2"))
    plain = "as it stands {{ privileged_context }}" if path == "teacher.template" else "as it stands"
    assert getattr(getattr(resolve("tiny", _with(path, plain)), section), leaf) == plain
