"""A PostgreSQL of its own in a temporary folder, as Debian's package has it; skipped where none is installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.state import HOST

_USER = "postgres"


@contextmanager
def postgres(port: int) -> Iterator[str]:
    """Address of a database `prefect` on `port` of loopback, for SQLAlchemy."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "/none")]
    programs = found[-1].parent
    if not found[-1].exists():
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="opsd-postgres-"))
    if os.getuid() == 0:
        shutil.chown(folder, _USER, _USER)

    def run(*command: str) -> None:
        asked = (str(programs / command[0]), *command[1:])
        other = ("runuser", "-u", _USER, "--") if os.getuid() == 0 else ()
        subprocess.run([*other, *asked], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    run("initdb", "--pgdata", data, "--auth=trust", f"--username={_USER}", "--no-sync", "--encoding=UTF8")
    options = f"-c listen_addresses={HOST} -c port={port} -c unix_socket_directories={folder} -c max_connections=200"
    try:
        run("pg_ctl", "--pgdata", data, "--wait", "--options", options, "--log", str(folder / "log"), "start")
        run("createdb", "--host", HOST, "--port", str(port), "--username", _USER, "prefect")
        yield f"postgresql+asyncpg://{_USER}@{HOST}:{port}/prefect"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
