"""A run that is killed goes on within the documented time, whatever is restarted: `pytest tests/infra/test_restarts.py`."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import processes
from infra.services import SERVICES
from tests.own_stack import ROOT, OwnStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ONE_MACHINE_S = 60.0
"""docs/operations.md."""

SLEEPER = """
import time
from prefect import flow
from prefect.runtime import flow_run

@flow(name="opsd")
def iterate(first_s: float = 900.0):
    time.sleep(first_s if flow_run.run_count == 1 else 0)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnStack]:
    stack = OwnStack(tmp_path_factory.mktemp("own"), SLEEPER)
    yield stack
    stack.stop()


@pytest.fixture
def run(own: OwnStack) -> str:
    """A run at its first start, which sleeps for ever."""
    number = own.trigger()
    own.wait_for("Running", number, 180)
    return number


def kill_everything(own: OwnStack) -> None:
    for name in SERVICES:
        for process in processes.family(own.state.root, name):
            process.kill()


def goes_on(own: OwnStack, run: str, what: str) -> None:
    """On its way within the documented time, and complete at its second start."""
    took = own.wait(lambda: own.api("GET", f"/flow_runs/{run}")["run_count"] == 2, run, ONE_MACHINE_S)
    print(f"{what}: running again after {took:.0f} s")
    own.wait_for("Completed", run, 120)
    assert own.states(run).count("Running") == 2


def test_down_and_up_in_the_middle(own: OwnStack, run: str) -> None:
    own.stop()
    own.up()
    goes_on(own, run, "down and up")


def test_everything_killed_at_once(own: OwnStack, run: str) -> None:
    kill_everything(own)
    own.up()
    goes_on(own, run, "everything killed")


def test_prefect_restarted_twice_around_the_kill(own: OwnStack, run: str) -> None:
    processes.stop(own.state.root, "prefect")
    kill = [process for process in processes.family(own.state.root, "worker") if "prefect.engine" in process.cmdline()]
    for process in kill:
        process.kill()
    own.up()
    processes.find(own.state.root, "prefect").kill()
    processes.stop(own.state.root, "prefect")
    own.up()
    goes_on(own, run, "Prefect restarted twice")


def test_everything_killed_before_the_run_has_begun(own: OwnStack) -> None:
    """What a stack leaves that is stopped while a run is submitted: the run blocks the queue, which has one place."""
    number = own.trigger()
    own.wait(lambda: "Pending" in own.states(number), number, 60)
    kill_everything(own)
    own.up()
    took = own.wait(lambda: "Running" in own.states(number), number, ONE_MACHINE_S)
    print(f"killed while it was submitted: running after {took:.0f} s")
    for process in processes.family(own.state.root, "worker"):
        if "prefect.engine" in process.cmdline():
            process.kill()
    goes_on(own, number, "and killed again")


def test_cancelled_while_everything_was_down_it_stays_cancelled(own: OwnStack, run: str) -> None:
    processes.find(own.state.root, "worker").kill()
    processes.stop(own.state.root, "worker")
    state = {"state": {"type": "CANCELLING"}, "force": True}
    own.api("POST", f"/flow_runs/{run}/set_state", json=state)
    own.up()
    own.wait_for("Cancelled", run, ONE_MACHINE_S)
    after = own.trigger()  # the slot is free again
    own.wait_for("Running", after, ONE_MACHINE_S)
    assert own.states(run)[-1] == "Cancelled"
    own.api("POST", f"/flow_runs/{after}/set_state", json=state)
    own.wait_for("Cancelled", after, 120)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_full_disk_that_is_freed(tmp_path: Path) -> None:
    """The state folder lies on a file system of 300 MB that fills up; the run is killed while nothing can be written."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "tests.infra.full_disk", str(tmp_path)]
    if subprocess.run([*command[:4], "true"], check=False).returncode:
        pytest.skip("this machine allows no user namespaces")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
