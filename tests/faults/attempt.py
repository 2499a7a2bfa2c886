"""One attempt at a campaign in a process of its own, forked from a server that has imported everything once."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.stages import MODULES
from tasks.runtime.settings import load_settings
from tasks.storage.manifest import MANIFEST_NAME
from tasks.storage.s3 import Store, open_store

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["flows.iterate", *MODULES])


@dataclass(frozen=True)
class Arm:
    """A campaign with a store and a cache of its own, so that nothing is reused from another one."""

    name: str
    folder: Path
    parameters: dict[str, Any]
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> str:
        return f"s3://opsd/{self.name}"

    def store(self) -> Store:
        return open_store(self.root, load_settings())

    def manifests(self) -> int:
        """Finished artifacts so far; each one is the end of a stage, or of a part of one."""
        return sum(info.key.endswith("/" + MANIFEST_NAME) for info in self.store().list(""))

    def attempt(self, stop: Callable[[], bool] | None = None, timeout_s: float = 300.0) -> int:
        """Trigger the campaign; kill -9 as soon as `stop()` holds. The exit status, -9 when it was killed."""
        arguments = (self.root, self.folder, self.name, self.parameters, self.environ)
        process = _FORKS.Process(target=_run, args=arguments, daemon=True)
        process.start()
        deadline = time.monotonic() + timeout_s
        while process.is_alive():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-3000:]
            if stop is not None and stop():
                os.kill(process.pid, signal.SIGKILL)
                break
            process.join(0.02)
        process.join()
        return process.exitcode


def _run(root: str, folder: Path, name: str, parameters: dict[str, Any], environ: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(OPSD_STORE=root, OPSD_CACHE=str(folder / "cache"), OPSD_LEASE_WAIT_S="20", **environ)
    from flows.iterate import iterate

    iterate(name=name, **parameters)
