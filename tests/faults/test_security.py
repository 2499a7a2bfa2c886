"""pytest tests/faults/test_security.py — hostile weights and names."""

import pickle
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from opsd_core.config import resolve
from opsd_core.data import make_example
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.policy import load_policy
from tasks.storage.base import check_key
from tasks.storage.manifest import artifact_key
from tasks.tracking.registry import Registry


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "unpickled")


def test_a_folder_with_pickled_weights_only_is_refused_and_never_opened(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "proof")))
    with pytest.raises(ModelError, match=r"pickled weights \(\.bin\) are refused"):
        load_policy(folder, resolve("tiny").model)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["../other", "a/b", "/etc", "..", "", "A", "x" * 64, "a\n", "a b", "{{ name }}"])
def test_campaign_names_cannot_leave_their_prefix(name):
    with pytest.raises(ConfigError, match="name"):
        resolve("tiny", {"name": name})


@pytest.mark.parametrize("key", ["../x", "a/../b", "/a", "a//b", "a/./b", "a\\b", "a\x00b", "a\nb", "a/" + "b" * 256, ""])
def test_object_keys_cannot_leave_their_prefix(key):
    with pytest.raises(ConfigError, match="cannot name a stored object"):
        check_key(key)


@pytest.mark.parametrize("text", ["../../etc/passwd", "a/b", "\x00", "' or 1=1 --", "{{ 7 * 7 }}"])
def test_texts_of_a_dataset_never_become_part_of_a_key(text):
    example = make_example(text, text, text)
    assert len(example.id) == 16 and set(example.id) <= set("0123456789abcdef")
    key = artifact_key("rollouts", {"text": text})
    assert check_key(key) == key and len(key.partition("/")[2]) == 32


def test_registered_names_with_filter_syntax_are_refused(tmp_path):
    registry = Registry.__new__(Registry)  # the name is checked before any server is asked
    with pytest.raises(ConfigError, match="cannot name a registered model"):
        registry.ensure_model("x' or name like '%")


def test_remote_code_is_off_unless_asked_for():
    assert resolve("tiny").model.trust_remote_code is False
    with pytest.raises((ConfigError, ValidationError)):
        resolve("tiny", {"model": {"trust_remote_code": "sure"}})
