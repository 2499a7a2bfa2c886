"""pytest tests/tasks/test_apart.py — stored adapters and their bases: found whole, mended, refused, kept from deletion."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from opsd_core.errors import IntegrityError
from opsd_core.mlmodel import write_mlmodel
from opsd_core.models.policy import Policy, save_policy
from opsd_core.models.storage import apart
from opsd_core.models.storage.apart import StoredBase, keep_apart
from tasks.runtime.settings import load_settings
from tasks.storage.apart import bases_of, whole_folder
from tasks.storage.artifacts import discard, fetch, publish
from tasks.storage.cache import prune_cache
from tasks.storage.pyfunc_loader import _load_pyfunc
from tasks.storage.s3 import open_store
from tasks.tracking.registry import Version
from tasks.upkeep.retention import make_plan
from tests.core.models.test_apart import SERVING, bytes_of, trained
from tests.core.models.test_stored import KINDS, QUIET, llama, plain
from tests.core.small import small_tokenizer

pytestmark = QUIET


class Kept:
    """A base in a store, an adapter on it, and an adapter on the whole folder that these two make."""

    def __init__(self, folder):
        settings = {"OPSD_HOME": str(folder), "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}
        self.store = open_store(f"file://{folder}/objects", load_settings(settings))
        self.store.ensure_bucket()
        self.folder, self.cache, self.whole = folder, folder / "cache", {}
        self.base = self.first("base")
        self.one = self.adapter("one", self.base)
        self.two = self.adapter("two", self.one)

    def first(self, name, seed=0):
        made = self.folder / name
        save_policy(Policy(plain(llama(True)), small_tokenizer()), made)
        (made / "note.txt").write_text(str(seed))
        write_mlmodel(made)
        return publish(self.store, "models", {"source": name}, made, {})

    def adapter(self, name, below):
        base = StoredBase(whole_folder(self.store, below, self.cache), self.store.key_of(below.uri), below.digest)
        made, self.whole[name] = self.folder / name, self.folder / f"{name}-whole"
        keep_apart(trained(base, KINDS["llama-linear"][1]), base, SERVING, made, self.whole[name])
        write_mlmodel(made, "tasks.storage.pyfunc_loader", "whole/generation_config.json")
        return publish(self.store, "models", {"state": name}, made, {"base": base.address})

    def read(self, artifact):
        return whole_folder(self.store, artifact, self.cache)


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path)


def test_whole_folders_are_found_of_any_depth_and_put_together_once(kept):
    assert kept.read(kept.base) == fetch(kept.store, kept.base, kept.cache)
    for artifact, name in ((kept.one, "one"), (kept.two, "two")):
        folder = kept.read(artifact.uri)
        assert bytes_of(folder) == bytes_of(kept.whole[name]) and folder.parent == kept.cache
        inode = (folder / "model.safetensors").stat().st_ino
        assert kept.read(artifact) == folder and (folder / "model.safetensors").stat().st_ino == inode
    assert bases_of(kept.store, kept.two.uri) == [kept.one.uri, kept.base.uri] and bases_of(kept.store, kept.base.uri) == []
    assert kept.one.num_bytes < kept.base.num_bytes
    prune_cache(kept.cache, 0, idle_s=-1)
    assert not any(path.is_dir() for path in kept.cache.iterdir())
    assert bytes_of(kept.read(kept.two)) == bytes_of(kept.whole["two"])


def test_several_that_want_a_whole_folder_at_once_put_it_together_once(kept, monkeypatch):
    prune_cache(kept.cache, 0, idle_s=-1)
    made, really = [], apart.put_together
    monkeypatch.setattr(apart, "put_together", lambda *given: made.append(given) or really(*given))
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(kept.read, [kept.one] * 3))
    assert len(made) == len(folders) == 1 and bytes_of(folders.pop()) == bytes_of(kept.whole["one"])


@pytest.mark.parametrize("damage", ["flipped", "deleted", "listing", "strange"])
def test_a_damaged_whole_folder_is_put_together_again(kept, damage):
    folder = kept.read(kept.one)
    if damage == "flipped":
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model.safetensors").write_bytes(data)
    elif damage == "deleted":
        (folder / "config.json").unlink()
    elif damage == "listing":
        (folder / "MLmodel").write_text("metadata: {opsd: {files: {}, checksum: x}}")
    else:
        (folder / "added.json").write_text("{}")
    assert bytes_of(kept.read(kept.one)) == bytes_of(kept.whole["one"])


def test_an_adapter_without_its_base_or_on_another_one_is_refused_by_name(kept):
    prune_cache(kept.cache, 0, idle_s=-1)
    discard(kept.store, kept.base.key)
    with pytest.raises(IntegrityError, match=f"{kept.base.uri}, the base of an adapter .* does not exist"):
        kept.read(kept.one)
    (kept.folder / "base" / "note.txt").write_text("1")
    write_mlmodel(kept.folder / "base")
    publish(kept.store, "models", {"source": "base"}, kept.folder / "base", {})
    with pytest.raises(IntegrityError, match=r"is no longer what .* holds"):
        kept.read(kept.one)


def test_nothing_is_deleted_that_an_adapter_needs_even_where_no_other_record_names_it(kept):
    unneeded = kept.first("unneeded", 1)
    version = Version("m", 1, kept.two.uri, "run", {"opsd.model_uri": kept.two.uri}, ("champion",), "")
    plan = make_plan(kept.store, {"m": [version]}, keep_candidates=0, min_age_s=-1.0)
    assert plan.deletable == [unneeded.key]
    plan = make_plan(kept.store, {"m": [replace(version, aliases=())]}, keep_candidates=0, min_age_s=-1.0)
    assert plan.deletable == sorted(a.key for a in (unneeded, kept.base, kept.one, kept.two))


def test_mlflow_loads_a_downloaded_adapter_with_the_base_from_the_store(kept, monkeypatch):
    monkeypatch.setenv("OPSD_STORE", kept.store.root)
    monkeypatch.setenv("OPSD_CACHE", str(kept.folder / "elsewhere"))
    downloaded = shutil.copytree(kept.folder / "two", kept.folder / "downloaded")
    expected = _load_whole(kept.whole["two"])
    params = {"max_completion_length": 4}
    assert _load_pyfunc(str(downloaded)).predict(["12+3"], params) == expected.predict(["12+3"], params)
    (downloaded / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(IntegrityError, match="adapter_model"):
        _load_pyfunc(str(downloaded))


def _load_whole(folder):
    from opsd_core.pyfunc_loader import TextGenerator

    return TextGenerator(folder)
