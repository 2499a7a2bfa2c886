"""`python -m tests.infra.full_disk FOLDER`, in a mount namespace of its own: a stack whose disk fills up and is freed."""

import subprocess
import sys
import time
from pathlib import Path

from infra import processes
from tests.disk import fill
from tests.infra.test_restarts import ONE_MACHINE_S, SLEEPER
from tests.own_stack import OwnStack

_SIZE = "400m"
STORE_NOTICES_S = 60.0
"""The store looks once a minute whether its disk has space again; docs/operations.md."""


def main(folder: Path) -> None:
    """AssertionError when the run does not go on within the documented time of the disk being freed."""
    (folder / "state").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder / "state")], check=True)
    own = OwnStack(folder, SLEEPER)
    try:
        run = own.trigger()
        own.wait_for("Running", run, 180)
        ballast = folder / "state" / "ballast"
        fill(ballast)
        for process in processes.family(own.state.root, "worker"):
            if "prefect.engine" in process.cmdline():
                process.kill()
        time.sleep(40)
        fill(ballast)
        assert own.states(run).count("Running") == 1, own.states(run)
        ballast.unlink()
        took = own.wait(lambda: own.api("GET", f"/flow_runs/{run}")["run_count"] == 2, run, STORE_NOTICES_S + ONE_MACHINE_S)
        print(f"disk freed: running again after {took:.0f} s")
        own.wait_for("Completed", run, 120)
    finally:
        print((own.state.root / "logs" / "worker.log").read_text()[-3000:])
        own.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
