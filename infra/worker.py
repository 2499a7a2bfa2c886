"""A process worker that reports a killed run once: `python -m infra.worker --pool opsd`, options as `prefect worker start`.

Prefect's own process worker reports a process that died twice: at once, and when the run's crash hooks have ended. By then
the automation of `infra.bootstrap` has scheduled the run again, so the second report sets its next start to Crashed while it
runs, and a third begins alongside it.
"""

import os
import sys
import warnings
from typing import Any

from prefect.cli import app
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from infra.access.child_environment import child_environment
from infra.access.job_template import ChildConfiguration
from tasks.runtime.secrets import redact_logs

# Taking the place of Prefect's worker of this type is the purpose.
warnings.filterwarnings("ignore", message="Type 'Worker' .* matches existing registered type")


class Worker(ProcessWorker):
    """Prefect's process worker without its second report, and with children that get only what they need."""

    job_configuration = ChildConfiguration

    async def run(
        self, flow_run: FlowRun, configuration: ProcessJobConfiguration, task_status: Any = None
    ) -> ProcessWorkerResult:
        """What came of one start of a run; status 0, which nobody reports, unless the run still looks alive."""
        result = await super().run(flow_run, configuration, task_status)
        now = await self.client.read_flow_run(flow_run.id)
        unreported = now.state is not None and now.state.is_running() and now.run_count <= flow_run.run_count + 1
        return result if unreported else ProcessWorkerResult(status_code=0, identifier=result.identifier)


def main() -> None:
    """`prefect worker start --type process` with this worker, in an environment that its children may inherit."""
    kept = child_environment(os.environ)
    if any(kept.get(name) != value for name, value in os.environ.items() if not name.startswith("_")):
        os.execve(sys.executable, [sys.executable, "-m", "infra.worker", *sys.argv[1:]], kept)
    redact_logs()
    sys.argv[1:] = ["worker", "start", "--type", "process", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
