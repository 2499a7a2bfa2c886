"""A real Prefect, MLflow and S3 server for the tests, in a temporary folder on free ports.

tests/conftest.py gives every test session its own variables (so that no test ever reaches another server) and offers
the fixture `stack`, which starts the servers when the first test asks for them, and `worker`, which adds deployments
and a worker.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.state import State, open_state

# Taken out of the environment first: a test session uses its own servers only.
_FOREIGN = ("PREFECT_", "MLFLOW_", "AWS_ACCESS", "AWS_SECRET", "AWS_SESSION", "AWS_ENDPOINT", "AWS_PROFILE", "OPSD_")
_OWN = {"OPSD_VLLM_ENV"}
"""A folder of programs, of this machine."""
_PREFIX = "opsd-tests-"


@dataclass(frozen=True)
class Stack:
    """The session's servers: `state` says where they are, `env` is what a client needs in its environment."""

    state: State
    env: dict[str, str] = field(repr=False)

    def up(self, *, worker: bool = False) -> list[str]:
        """Start what is missing; returns the names of what was started."""
        from infra.lifecycle import up

        return up(self.state, {**os.environ, **self.env}, worker=worker)

    def down(self) -> list[str]:
        """Stop everything; returns the names of what ran."""
        from infra.lifecycle import down

        return down(self.state, patience_s=10)


def make_stack() -> Stack:
    """Choose a folder, ports and credentials; nothing is started."""
    remove_leftovers()
    state = open_state(Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")))
    for name in [name for name in os.environ if name.startswith(_FOREIGN) and name not in _OWN]:
        del os.environ[name]
    return Stack(state, state.write_env(os.environ))


def remove_leftovers() -> None:
    """Stop and delete what test sessions left behind that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not owner.isdigit() or psutil.pid_exists(int(owner)):
            continue
        with suppress(FileNotFoundError):  # another session deletes it at the same time
            if folder.stat().st_uid == os.getuid():
                discard(Stack(open_state(folder), {}))


def discard(stack: Stack) -> None:
    """Stop a stack and delete its folder."""
    stack.down()
    shutil.rmtree(stack.state.root, ignore_errors=True)
