"""This project's process worker: `python -m infra.worker --pool opsd`, options as `prefect worker start`.

It is Prefect's own with five differences. It writes down which process works on a run, before it takes the run and when the
process has started (`tasks.storage.presence`). It reconciles what Prefect believes with the processes there are, all the time
(`infra.reconcile`). And it reports a killed run once: Prefect's reports a process that died twice, at once and when the run's
crash hooks have ended. By then the run may be scheduled again, so the second report would set its next start to Crashed
while it runs, and a third would begin alongside it. With --limit it outlives a run that is scheduled again at once. And it
remembers which starts of its own have ended, for runs whose process nobody could record.
"""

import asyncio
import os
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.cli import app
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from infra.access.child_environment import child_environment
from infra.access.job_template import ChildConfiguration
from infra.lossy import Lossy
from infra.reconcile import reconcile_forever
from opsd_core.errors import OpsdError
from tasks.runtime.secrets import redact_logs
from tasks.runtime.settings import load_settings
from tasks.storage.presence import announce_launch, announce_process
from tasks.storage.s3 import open_store

# Taking the place of Prefect's worker of this type is the purpose.
warnings.filterwarnings("ignore", message="Type 'Worker' .* matches existing registered type")

_PATIENCE_S = 5.0
"""How long a run waits for the store to take its record; without one the run starts all the same."""


ENDED: dict[UUID, float] = {}
"""When the starts that this worker made ended, in seconds since 1970: all that is known of one that no store would record."""


class Worker(ProcessWorker):
    """Prefect's process worker with records of its processes, without its second report; its children get only what they need."""

    job_configuration = ChildConfiguration

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = load_settings()
        self._store = open_store(settings=settings.model_copy(update={"s3_timeout_s": _PATIENCE_S}))
        self._attempts: dict[str, int] = {}

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """Record that this worker is about to start the run, then start it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._announce, flow_run), _PATIENCE_S)
        await super()._submit_run(flow_run)

    async def _submit_run_and_capture_errors(self, flow_run: FlowRun, task_status: Any = None) -> Any:
        """Start it, and remember when that start ended, whatever came of it."""
        ENDED.pop(flow_run.id, None)
        try:
            return await super()._submit_run_and_capture_errors(flow_run, task_status)
        finally:
            ENDED[flow_run.id] = time.time()

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any]) -> list[FlowRun]:
        """Leave for the next look a run whose last start still holds its place under --limit; taking it twice ends the worker."""
        held = self._limiter.statistics().borrowers if self._limiter else ()
        return await super()._submit_scheduled_flow_runs([one for one in flow_run_response if one.flow_run.id not in held])

    def _announce(self, flow_run: FlowRun) -> None:
        with suppress(OpsdError):
            self._attempts[str(flow_run.id)] = announce_launch(self._store, str(flow_run.id))

    async def run(
        self, flow_run: FlowRun, configuration: ProcessJobConfiguration, task_status: Any = None
    ) -> ProcessWorkerResult:
        """What came of one start of a run; status 0, which nobody reports, unless the run still looks alive."""
        started = _Started(self, str(flow_run.id), task_status) if task_status is not None else None
        result = await super().run(flow_run, configuration, started)
        now = await self.client.read_flow_run(flow_run.id)
        unreported = now.state is not None and now.state.is_running() and now.run_count <= flow_run.run_count + 1
        return result if unreported else ProcessWorkerResult(status_code=0, identifier=result.identifier)

    def record(self, run_id: str, pid: int) -> None:
        """Write down the process of a run."""
        with suppress(OpsdError):
            announce_process(self._store, run_id, pid, self._attempts.pop(run_id, 1))


class _Started:
    """Passes on that a run's process has started, and has it recorded."""

    def __init__(self, worker: Worker, run_id: str, task_status: Any) -> None:
        self._worker, self._run_id, self._passed_on = worker, run_id, task_status

    def started(self, pid: int) -> None:
        threading.Thread(target=self._worker.record, args=(self._run_id, pid), daemon=True).start()
        self._passed_on.started(pid)


def main() -> None:
    """`prefect worker start --type process` with this worker, in an environment that its children may inherit.

    The reconciler runs beside it.
    """
    kept = child_environment(os.environ)
    if any(kept.get(name) != value for name, value in os.environ.items() if not name.startswith("_")):
        os.execve(sys.executable, [sys.executable, "-m", "infra.worker", *sys.argv[1:]], kept)
    sys.stdout, sys.stderr = Lossy(sys.stdout), Lossy(sys.stderr)
    redact_logs()
    if not {"--help", "-h"} & set(sys.argv):
        say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
        threading.Thread(target=reconcile_forever, kwargs={"say": say, "ended": ENDED}, name="reconcile", daemon=True).start()
    sys.argv[1:] = ["worker", "start", "--type", "process", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
