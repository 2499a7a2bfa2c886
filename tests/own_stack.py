"""A project of its own with one cheap flow: servers, deployment and worker, for tests that kill and restart them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from infra import processes
from infra.lifecycle import down
from infra.services import SERVICES
from infra.state import open_state

ROOT = Path(__file__).resolve().parents[1]


class OwnStack:
    """A project of its own whose opsd/iterate is `flow`: servers, deployment and worker, and one run of it."""

    def __init__(self, folder: Path, flow: str) -> None:
        (folder / "flows").mkdir()
        (folder / "flows" / "iterate.py").write_text(flow)
        declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
        declared["deployments"] = [d for d in declared["deployments"] if d["name"] == "iterate"]
        (folder / "prefect.yaml").write_text(yaml.safe_dump(declared))
        self.environ = {"PATH": os.environ["PATH"], "OPSD_HOME": str(folder), "OPSD_STATE": str(folder / "state")}
        self.up()
        self.state = open_state(folder / "state")

    def up(self) -> None:
        """Start what is missing."""
        subprocess.run([sys.executable, "-m", "infra.stack", "up", "--worker"], env=self.environ, check=True)

    def api(self, method: str, path: str, **options: Any) -> Any:
        """What Prefect's API answers."""
        variables = self.state.client_variables(self.environ)
        user, _, password = variables.get("PREFECT_API_AUTH_STRING", "").partition(":")
        auth = (user, password) if password else None
        with httpx.Client(base_url=variables["PREFECT_API_URL"], auth=auth, timeout=60) as client:
            if method != "GET":
                token = client.get("/csrf-token", params={"client": "tests"}).raise_for_status().json()["token"]
                client.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "tests"})
            answer = client.request(method, path, **options).raise_for_status()
            return answer.json() if answer.content else None

    def trigger(self) -> str:
        """Id of a new run."""
        deployment = self.api("GET", "/deployments/name/opsd/iterate")["id"]
        return self.api("POST", f"/deployments/{deployment}/create_flow_run", json={})["id"]

    def states(self, run_id: str) -> list[str]:
        """Names of the states that a run has been in, in order."""
        found = self.api("GET", "/flow_run_states/", params={"flow_run_id": run_id})
        return [state["name"] for state in sorted(found, key=lambda state: state["timestamp"])]

    def wait_for(self, state: str, run_id: str, patience_s: float) -> int:
        """The run's number of starts, once it has been in this state."""
        self.wait(lambda: state in self.states(run_id), run_id, patience_s)
        return self.api("GET", f"/flow_runs/{run_id}")["run_count"]

    def wait(self, holds: Callable[[], bool], run_id: str, patience_s: float) -> float:
        """Seconds until `holds()`, at most `patience_s`."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() < began + patience_s, self.states(run_id)
            time.sleep(0.3)
        return time.monotonic() - began

    def stop(self) -> None:
        """`down`, and nothing of it is left."""
        down(self.state)
        assert [process for name in SERVICES for process in processes.family(self.state.root, name)] == []
