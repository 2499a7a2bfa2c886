"""A store of a test's own."""

from tests.tasks.placement.conftest import own_store  # noqa: F401
