"""pytest tests/tasks/test_side_by_side.py — processes of a pool end with the process that started them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, sys, time
from pathlib import Path
from prefect import flow, task
from tasks.runtime.side_by_side import side_by_side

@task
def sleep(folder: str, number: int, threads: int = 0):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)

@flow(name="opsd-test")
def body(folder: str):
    with side_by_side(2) as run:
        run(sleep, [(folder, 0), (folder, 1)])

if __name__ == "__main__":
    body(sys.argv[1])
"""


def test_no_process_of_a_pool_outlives_a_killed_parent(stack, tmp_path):
    """Otherwise they would keep training alongside the run that replaces them, and never release their memory."""
    (tmp_path / "sleeper.py").write_text(PROGRAM)
    (tmp_path / "pids").mkdir()
    environ = os.environ | stack.env | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, tmp_path / "sleeper.py", tmp_path / "pids"], env=environ)
    try:
        deadline = time.monotonic() + 120
        while len(pids := [int(path.name) for path in (tmp_path / "pids").iterdir()]) < 2:
            assert parent.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        children = [psutil.Process(pid) for pid in pids]
    finally:
        parent.kill()
        parent.wait()
    psutil.wait_procs(children, timeout=5)
    alive = [process for process in children if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    assert not alive
