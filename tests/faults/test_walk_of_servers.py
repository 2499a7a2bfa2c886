"""pytest tests/faults/test_walk_of_servers.py — a worker's run through kills and restarts drawn from a seed.

OPSD_WALK_SEED=N repeats the walk of a failure, OPSD_WALK_EVENTS=N is its length.
"""

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from infra import processes
from infra.recovery import MAX_STARTS
from infra.services import SERVICES
from tasks.runtime.settings import load_settings
from tasks.storage.presence import recorded_runs
from tasks.storage.s3 import open_store
from tests.own_stack import OwnStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * 3600)]
ONE_MACHINE_S = 60.0
"""docs/operations.md."""
KINDS = {
    "kill the run": 4,
    "pause the run": 2,
    "kill the worker": 2,
    "kill everything": 2,
    "down": 1,
    "restart prefect": 2,
    "restart s3": 1,
    "restart mlflow": 1,
    "kill the run, then restart prefect": 2,
}
SPARES = {"pause the run", "restart prefect", "restart s3", "restart mlflow"}
"""What a run outlives without another start."""
WAITS = """
import time
from pathlib import Path
from prefect import flow

@flow(name="opsd")
def iterate(gate: str = ""):
    while not Path(gate).exists():
        time.sleep(0.2)
"""


def draw(seed, count):
    """The first `count` events of this seed: (kind, seconds)."""
    chance = random.Random(seed)
    kinds = [chance.choices(list(KINDS), list(KINDS.values()))[0] for _ in range(count)]
    return [(kind, round(chance.uniform(1.0, 15.0), 1)) for kind in kinds]


def engine_of(own):
    """The processes of the runs in flight."""
    found = processes.family(own.state.root, "worker")
    return [process for process in found if "prefect.engine" in process.cmdline()]


def strike(own, kind, seconds):
    """Let it happen; the servers run afterwards."""
    if kind.startswith("kill the run"):
        for process in engine_of(own):
            process.kill()
    if kind == "pause the run":
        for act in ("suspend", "resume"):
            for process in engine_of(own):
                getattr(process, act)()
            time.sleep(seconds if act == "suspend" else 0)
    if kind in ("kill the worker", "kill everything"):
        names = ["worker"] if kind == "kill the worker" else SERVICES
        for process in [p for name in names for p in [processes.find(own.state.root, name)] if p]:
            process.kill()
    if kind == "down":
        own.stop()
    if "restart" in kind:
        time.sleep(seconds / 5)
        processes.stop(own.state.root, kind.rpartition(" ")[2])
    own.up()


class Run:
    """A run that waits for its gate, and how often it must have started."""

    def __init__(self, own, gate: Path) -> None:
        self.own, self.gate, self.starts = own, gate, 1
        deployment = own.api("GET", "/deployments/name/opsd/iterate")["id"]
        given = {"parameters": {"gate": str(gate)}}
        self.id = own.api("POST", f"/deployments/{deployment}/create_flow_run", json=given)["id"]
        own.wait_for("Running", self.id, 180)

    def runs_on(self) -> bool:
        run = self.own.api("GET", f"/flow_runs/{self.id}")
        return run["state"]["type"] == "RUNNING" and run["run_count"] == self.starts and bool(engine_of(self.own))

    def end(self) -> None:
        self.gate.touch()
        assert self.own.wait_for("Completed", self.id, 120) == self.starts
        assert self.own.states(self.id).count("Running") == self.starts


def test_a_walk_of_servers(tmp_path, capsys):
    seed, count = int(os.environ.get("OPSD_WALK_SEED", "1")), int(os.environ.get("OPSD_WALK_EVENTS", "24"))
    own, met, times = OwnStack(tmp_path, WAITS), Counter(), []
    try:
        run = Run(own, tmp_path / "gate-0")
        for number, (kind, seconds) in enumerate(draw(seed, count)):
            if run.starts == MAX_STARTS:
                run.end()
                run = Run(own, tmp_path / f"gate-{number}")
            strike(own, kind, seconds)
            run.starts += kind not in SPARES
            took = own.wait(run.runs_on, run.id, ONE_MACHINE_S)
            met[kind] += 1
            if kind not in SPARES:
                times.append(took)
            say(capsys, f"seed {seed}, event {number}, {kind}: running after {took:.0f} s")
        run.end()
        nothing_is_left(own)
    finally:
        own.stop()
    middle = sorted(times)[len(times) // 2]
    say(capsys, f"{dict(met)}; running again after {min(times):.0f} to {max(times):.0f} s, median {middle:.0f} s")


def nothing_is_left(own):
    """No run at work, no process of one, no record."""
    variables = own.state.client_variables(own.environ)
    store = open_store(settings=load_settings({**variables, "OPSD_STATE": str(own.state.root)}))
    deadline = time.monotonic() + ONE_MACHINE_S
    while recorded_runs(store) or engine_of(own):
        assert time.monotonic() < deadline, (recorded_runs(store), engine_of(own))
        time.sleep(1)
    types = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "SCHEDULED", "CRASHED"]}}}}
    assert own.api("POST", "/flow_runs/filter", json=types) == []


def say(capsys, text):
    """A line for benchmarks/resume.md."""
    with capsys.disabled():
        print(text, flush=True)
