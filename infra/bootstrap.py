"""Prepare a Prefect server for opsd; safe to repeat: `python -m infra.bootstrap`.

    work pool `opsd`     type process; queue `default` for promotions, queue `models` for jobs that hold a model in memory
    dead-run automation  a run whose heartbeats stop is set to Crashed, so that its slot is free again
    continue automation  a campaign or study that crashed after it had begun is scheduled again and resumes where it stopped
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import timedelta

import httpx
from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from infra.access.job_template import pool_template
from infra.state import MODEL_QUEUE, POOL
from tasks.runtime.secrets import redact

DEAD_RUNS, CONTINUE = "opsd-dead-runs", "opsd-continue-crashed"
CONTINUED = ("iterate", "pretrain", "replay", "study")
"""Deployments whose crashed runs are resumed automatically: they find their finished work again."""
MAX_STARTS = 5
"""How often one run may start; the crash of the last one stays."""
_COUNTS = [str(starts) for starts in range(MAX_STARTS)]
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDINGS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
# Three missed heartbeats of 60 s (PREFECT_FLOWS_HEARTBEAT_FREQUENCY) and some room for a slow machine.
_SILENCE_S = 200


def dead_run_automation() -> AutomationCore:
    """Set a run to Crashed when neither a heartbeat nor an end of it was seen for 200 s after its last heartbeat.

    Only runs of the queue `models`: a promotion that waits for a person has no heartbeats and must stay suspended, even
    when the server sees its only heartbeat after its suspension.
    """
    return AutomationCore(
        name=DEAD_RUNS,
        description="A run whose process died without reporting it is set to Crashed, which frees its slot.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{ending}" for ending in _ENDINGS)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "work-queue", "prefect.resource.name": MODEL_QUEUE},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=_SILENCE_S),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"No heartbeat for {_SILENCE_S} s.")],
    )


def continue_automation() -> AutomationCore:
    """Schedule a crashed run of one of CONTINUED again, as the same run with the same parameters.

    At most MAX_STARTS starts, and once per start: a run that has not reached `Running` since it was scheduled stays as it
    is, so neither a process that dies again and again nor a worker that cannot start one makes a loop.
    """
    return AutomationCore(
        name=CONTINUE,
        description="A campaign or study whose process died resumes from its last finished stage or checkpoint.",
        trigger=EventTrigger(
            after={"prefect.flow-run.Running"},
            expect={"prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.run-count": _COUNTS},
            match_related={"prefect.resource.role": "deployment", "prefect.resource.name": list(CONTINUED)},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(days=365),
        ),
        actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="Goes on after a crash.")],
    )


def prepare(client: SyncPrefectClient, model_jobs: int) -> None:
    """Create or update pool, queues and automations; `model_jobs` is how many model-holding runs may go at once."""
    template = pool_template(ProcessWorker.get_default_base_job_template())
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template))
    except ObjectAlreadyExists:
        client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))
    try:
        queue = client.read_work_queue_by_name(MODEL_QUEUE, work_pool_name=POOL)
    except ObjectNotFound:
        client.create_work_queue(name=MODEL_QUEUE, work_pool_name=POOL, concurrency_limit=model_jobs)
    else:
        client.update_work_queue(queue.id, concurrency_limit=model_jobs)
    for automation in (dead_run_automation(), continue_automation()):
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
        for surplus in known[1:]:
            client.delete_automation(surplus.id)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the server that PREFECT_API_URL names; returns the exit status."""
    argparse.ArgumentParser(prog="python -m infra.bootstrap", description=__doc__.splitlines()[0]).parse_args(arguments)
    given = os.environ.get("OPSD_MODEL_JOBS", "1")
    if not given.isdigit() or int(given) < 1:
        print(f"opsd: OPSD_MODEL_JOBS={given!r} must be a whole number of at least 1.", file=sys.stderr)
        return 1
    try:
        with get_client(sync_client=True) as client:
            prepare(client, int(given))
    except httpx.HTTPError as error:
        url = os.environ.get("PREFECT_API_URL", "").rpartition("@")[2]
        where = url or "(PREFECT_API_URL is not set)"
        hint = " Check PREFECT_API_AUTH_STRING." if "401" in str(error) else ""
        print(f"opsd: Prefect at {where} cannot be prepared: {redact(repr(error))}.{hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
