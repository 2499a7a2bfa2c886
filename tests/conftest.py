"""Session-wide set-up: own servers, own variables, started on demand."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.stack import Stack, discard, make_stack

_STACK = pytest.StashKey[Stack]()


def pytest_configure(config: pytest.Config) -> None:
    """Point the environment at this session's servers before any client library is imported and reads it."""
    config.addinivalue_line("markers", "ends_stack: kills the session's servers, so it runs last")
    if side_by_side := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)) - 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // (side_by_side + 1)))
    stack = make_stack()
    config.stash[_STACK] = stack
    os.environ.update(stack.env)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers, if they run, and delete their folder."""
    if _STACK in config.stash:
        discard(config.stash[_STACK])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run last what kills the session's servers."""
    items.sort(key=lambda item: item.get_closest_marker("ends_stack") is not None)


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Iterator[Stack]:
    """Prefect, MLflow and S3 servers that really run; `stack.env` holds the client variables, already set."""
    stack = pytestconfig.stash[_STACK]
    stack.up()
    yield stack
    if handlers := sys.modules.get("prefect.logging.handlers"):
        handlers.APILogWorker.drain_all(timeout=5)  # else the last lines are sent at exit, to a server that is gone, for a minute
    stack.down()


@pytest.fixture(scope="session")
def worker(stack: Stack) -> Stack:
    """`stack` with the deployments of prefect.yaml registered and one worker."""
    stack.up(worker=True)
    return stack


@pytest.fixture(scope="session")
def tiny_model(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model, to be read only; kept in pytest's cache for as long as the code that makes it is the same."""
    import torch
    import transformers

    from opsd_core.digest import digest, file_digest
    from opsd_core.models import tiny
    from opsd_core.models.storage import saving

    code = [file_digest(Path(module.__file__)) for module in (tiny, saving)]
    name = digest([code, torch.__version__, transformers.__version__])[:16]
    folder = Path(pytestconfig.cache.mkdir("tiny-model")) / name
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            built = tiny.build_tiny(tmp_path_factory.mktemp("tiny") / name)
            shutil.copytree(built, folder.with_name(f"{name}.{os.getpid()}"))
            folder.with_name(f"{name}.{os.getpid()}").rename(folder)
    return folder
