"""A store of each kind, empty for every test: the running stack's S3 and a folder."""

import uuid

import pytest

from tasks.runtime.settings import Settings, load_settings
from tasks.storage.s3 import open_store


@pytest.fixture
def settings(stack, tmp_path) -> Settings:
    """The running stack's addresses, with the cache in a fresh folder."""
    return load_settings({**stack.env, **{f"OPSD_{name}": str(tmp_path / name) for name in ("HOME", "STATE", "CACHE")}})


@pytest.fixture(params=["s3", "file"])
def store(request, tmp_path, settings):
    """An empty store: a fresh prefix of the real S3 server's bucket, or a fresh folder."""
    root = f"s3://opsd/test-{uuid.uuid4().hex}" if request.param == "s3" else f"file://{tmp_path}/objects"
    opened = open_store(root, settings)
    opened.ensure_bucket()
    return opened
