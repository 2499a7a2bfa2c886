"""A project of its own with one cheap flow: servers, deployment and worker, for tests that kill and restart them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

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

    def trigger(self) -> str:
        return self._python(
            "from prefect.deployments import run_deployment; print(run_deployment('opsd/iterate', timeout=0).id)"
        )

    def wait_for(self, state: str, run_id: str, patience_s: float) -> int:
        """The run's number of starts, once it has been in this state."""
        program = (
            "import sys; from prefect.client.orchestration import get_client\n"
            "with get_client(sync_client=True) as c:\n"
            "    print(c.read_flow_run(sys.argv[1]).run_count, *(s.name for s in c.read_flow_run_states(sys.argv[1])))"
        )
        deadline = time.monotonic() + patience_s
        while state not in (found := self._python(program, run_id).split()):
            assert time.monotonic() < deadline, f"still {found}"
            time.sleep(5)
        return int(found[0])

    def _python(self, text: str, *arguments: str) -> str:
        command = [sys.executable, "-m", "infra.stack", "run", sys.executable, "-c", text, *arguments]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, check=True).stdout.strip()
