"""Prepare a Prefect server for opsd; safe to repeat: `python -m infra.bootstrap`.

    work pool `opsd`   type process; queue `default` for promotions, queue `models` for jobs that hold a model in memory
    --pool gpu=4       another work pool, for runners (execution.pools), that runs at most 4 at once

Automations of earlier versions are deleted: `infra.reconcile` looks at the processes instead.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from infra.access.job_template import pool_template
from infra.state import MODEL_QUEUE, POOL
from tasks.runtime.secrets import redact

RETIRED = ("opsd-dead-runs", "opsd-continue-crashed")
"""Automations of earlier versions. They acted on events, and an event that is lost is never made up for."""


def prepare(client: SyncPrefectClient, model_jobs: int) -> None:
    """Create or update pool and queues; `model_jobs` is how many model-holding runs may go at once."""
    prepare_pool(client, POOL)
    try:
        queue = client.read_work_queue_by_name(MODEL_QUEUE, work_pool_name=POOL)
    except ObjectNotFound:
        client.create_work_queue(name=MODEL_QUEUE, work_pool_name=POOL, concurrency_limit=model_jobs)
    else:
        client.update_work_queue(queue.id, concurrency_limit=model_jobs)
    for name in RETIRED:
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)


def prepare_pool(client: SyncPrefectClient, name: str, slots: int | None = None) -> None:
    """Create or update a process pool whose runs cannot choose what is executed; `slots` is how many may go at once."""
    template = pool_template(ProcessWorker.get_default_base_job_template())
    try:
        made = WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template, concurrency_limit=slots)
        client.create_work_pool(made)
    except ObjectAlreadyExists:
        changed = {"base_job_template": template} | ({} if slots is None else {"concurrency_limit": slots})
        client.update_work_pool(name, WorkPoolUpdate(**changed))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the server that PREFECT_API_URL names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.bootstrap", description=__doc__.splitlines()[0])
    parser.add_argument("--pool", action="append", default=[], metavar="NAME=SLOTS", help="also a pool for runners")
    pools = [given.rpartition("=") for given in parser.parse_args(arguments).pool]
    if wrong := [name or slots for name, _, slots in pools if not name or not slots.isdigit() or int(slots) < 1]:
        print(f"opsd: --pool {wrong[0]}: write NAME=SLOTS, such as gpu=4, with at least one slot.", file=sys.stderr)
        return 1
    given = os.environ.get("OPSD_MODEL_JOBS", "1")
    if not given.isdigit() or int(given) < 1:
        print(f"opsd: OPSD_MODEL_JOBS={given!r} must be a whole number of at least 1.", file=sys.stderr)
        return 1
    try:
        with get_client(sync_client=True) as client:
            prepare(client, int(given))
            for name, _, slots in pools:
                prepare_pool(client, name, int(slots))
    except httpx.HTTPError as error:
        url = os.environ.get("PREFECT_API_URL", "").rpartition("@")[2]
        where = url or "(PREFECT_API_URL is not set)"
        hint = " Check PREFECT_API_AUTH_STRING." if "401" in str(error) else ""
        print(f"opsd: Prefect at {where} cannot be prepared: {redact(repr(error))}.{hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
