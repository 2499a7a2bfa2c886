"""pytest tests/tasks/test_prepare_data.py — where data comes from: objects that are not there, folders whose files change."""

import uuid

import pytest

from opsd_core.config import DataConfig
from opsd_core.data import source_content
from opsd_core.errors import DataError
from tasks.sources import download_file
from tasks.storage.s3 import open_store


@pytest.mark.parametrize("uri", ["s3://opsd/absent/file.jsonl", "s3://opsd", "s3://opsd/folder/", "s3://"])
def test_an_address_without_an_object_is_named(stack, tmp_path, uri):
    with pytest.raises(DataError, match=rf"data.source={uri} does not exist. Write s3://bucket/folder/file.jsonl"):
        download_file(uri, tmp_path)


def test_an_object_becomes_a_file(settings, tmp_path):
    name = f"{uuid.uuid4().hex}.jsonl"
    store = open_store("s3://opsd", settings)
    store.ensure_bucket()
    store.put(f"data/{name}", b"{}\n")
    assert download_file(f"s3://opsd/data/{name}", tmp_path).read_bytes() == b"{}\n"


def test_a_data_set_is_another_one_when_a_file_of_its_folder_or_glob_changes(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{}\n")
    for source in (str(tmp_path), str(tmp_path / "*.jsonl")):
        before = source_content(DataConfig(source=source))
        assert set(before) == {"a.jsonl", "b.jsonl"}
        (tmp_path / "b.jsonl").write_text((tmp_path / "b.jsonl").read_text() + "{}\n")
        after = source_content(DataConfig(source=source))
        assert after["a.jsonl"] == before["a.jsonl"] and after["b.jsonl"] != before["b.jsonl"]
    assert source_content(DataConfig(source="owner/name")) == source_content(DataConfig(source="tiny:addition")) == {}
