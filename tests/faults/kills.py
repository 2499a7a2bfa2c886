"""One attempt at a campaign in a process of its own, forked from a server that has imported everything once."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.stages import MODULES
from tasks.runtime.settings import load_settings
from tasks.storage.s3 import Store, open_store

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["flows.iterate", *MODULES])
_FINISHED = re.compile(r"Task run '(.+?)(?:-[0-9a-f]{3})?' - Finished in state Completed")


@dataclass
class Arm:
    """A campaign with a store and a cache of its own, so that nothing is reused from another one."""

    name: str
    folder: Path
    parameters: dict[str, Any]
    killed: list[str] = field(default_factory=list)
    """Where each attempt so far was killed: the last finished stage."""
    attempts: int = 0

    @property
    def root(self) -> str:
        return f"s3://opsd/{self.name}"

    def store(self) -> Store:
        return open_store(self.root, load_settings())

    def log(self) -> str:
        """What the newest attempt has written so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stages(self) -> list[str]:
        """Stages that the newest attempt has finished, in order."""
        return _FINISHED.findall(self.log())

    def attempt(self, stop: Callable[[], bool] | None = None, timeout_s: float = 300.0) -> int:
        """Trigger the campaign; kill -9 as soon as `stop()` holds. The exit status, -9 when it was killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log").unlink(missing_ok=True)
        process = _FORKS.Process(target=_run, args=(self.root, self.folder, self.name, self.parameters), daemon=True)
        process.start()
        started = time.monotonic()
        while process.is_alive():
            assert time.monotonic() < started + timeout_s, self.log()[-3000:]
            if stop is not None and stop():
                os.kill(process.pid, signal.SIGKILL)
                break
            process.join(0.01)
        process.join()
        self.attempts += 1
        assert process.exitcode in (0, -signal.SIGKILL), self.log()[-3000:]
        if process.exitcode:
            self.killed.append((self.stages() or ["start"])[-1])
        return process.exitcode

    def finish(self) -> "Arm":
        """The campaign triggered once more, and left alone."""
        assert self.attempt() == 0, self.log()[-3000:]
        return self


def _run(root: str, folder: Path, name: str, parameters: dict[str, Any]) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(OPSD_STORE=root, OPSD_CACHE=str(folder / "cache"), OPSD_LEASE_WAIT_S="20")
    from flows.iterate import iterate

    iterate(name=name, **parameters)
