"""The services of docker-compose.yml as plain processes: Prefect on PostgreSQL, MLflow, object store, workers of a pool."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.state import HOST
from tasks.runtime.settings import load_settings
from tasks.storage.s3 import Store, open_store
from tests.scale.campaigns import eventually, sessions
from tests.scale.postgres import postgres
from tests.stack import Stack, discard

ROOT = Path(__file__).resolve().parents[2]
POOL = "gpu"
_RUN = "import json, sys\nfrom flows.iterate import iterate\niterate(**json.loads(sys.argv[1]))\n"


@dataclass
class Fleet:
    """Servers, and the workers of pool `gpu` with one slot each."""

    stack: Stack
    folder: Path
    workers: list[subprocess.Popen]

    @property
    def environ(self) -> dict[str, str]:
        """A client's, for new processes."""
        return {**os.environ, **self.stack.env, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def store(self, root: str = "s3://opsd") -> Store:
        """As the fleet's processes use it."""
        return open_store(root, load_settings(dict(self.stack.env)))

    def campaign(self, root: str = "s3://opsd", **parameters: Any) -> subprocess.Popen:
        """A campaign in a process of its own; its output is in `log`."""
        environ = {**self.environ, "OPSD_STORE": root, "OPSD_CACHE": str(self.folder / root.rpartition("/")[2])}
        with self.log(parameters["name"]).open("a") as log:
            command = [sys.executable, "-c", _RUN, json.dumps(parameters)]
            return subprocess.Popen(command, env=environ, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def log(self, name: str) -> Path:
        """What a campaign or worker wrote."""
        return self.folder / f"{name}.log"

    def finished(self, campaign: subprocess.Popen, name: str) -> None:
        """Wait for the campaign's end, which must be a good one."""
        eventually(lambda: campaign.poll() is not None, 1800)
        assert campaign.returncode == 0, self.log(name).read_text()[-6000:]

    def held(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """(key, lease) of every call of the campaign that a runner works on."""
        store = self.store()
        leases = [(key, store.read(key)) for key in sessions(store, name) if "/leases/" in key]
        records = [(key, json.loads(found[0])) for key, found in leases if found]
        return [(key, record) for key, record in records if record["expires_at"] > 0]


@contextmanager
def fleet(stack: Stack, folder: Path, workers: int) -> Iterator[Fleet]:
    """The services, started, and ended with everything that they began."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    with postgres(port) as address:
        stack.env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = address
        made = Fleet(stack, folder, [])
        try:
            stack.up(worker=True)
            command = [sys.executable, "-m", "infra.bootstrap", "--pool", f"{POOL}={workers}"]
            subprocess.run(command, env=made.environ, cwd=ROOT, check=True)
            for number in range(workers):
                command = [sys.executable, "-m", "infra.worker", "--pool", POOL, "--limit", "1", "--name", f"slot{number}"]
                with made.log(f"slot{number}").open("a") as log:
                    options = {"env": made.environ, "cwd": ROOT, "stdout": log, "stderr": log}
                    made.workers.append(subprocess.Popen(command, start_new_session=True, **options))
            yield made
        finally:
            for process in (p for worker in made.workers for p in [*_children(worker.pid), psutil.Process(worker.pid)]):
                process.send_signal(signal.SIGCONT)
                process.kill()
            for worker in made.workers:
                worker.wait()
            discard(stack)


def _children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)
