"""A store of a test's own."""

import pytest

from tasks import context
from tasks.context import store


@pytest.fixture
def own_store(tmp_path, monkeypatch):
    """A store in a folder."""
    monkeypatch.setenv("OPSD_STORE", f"file://{tmp_path}/objects")
    monkeypatch.setenv("OPSD_CACHE", str(tmp_path / "cache"))
    for cached in (context.settings, context.store):
        cached.cache_clear()
    yield store()
    for cached in (context.settings, context.store):
        cached.cache_clear()
