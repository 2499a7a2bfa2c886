"""Whether Prefect's work pools can hold a campaign's runners: asked before any work, refused by field."""

from collections.abc import Mapping

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from opsd_core.errors import ConfigError


def check_pools(client: SyncPrefectClient, pools: Mapping[str, int]) -> None:
    """ConfigError by field for a pool that is absent, paused, without workers, or smaller than its number of runners."""
    for name, count in pools.items():
        field = f"execution.pools.{name}={count}"
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound as error:
            known = ", ".join(sorted(found.name for found in client.read_work_pools())) or "none"
            raise ConfigError(
                f"{field}: Prefect has no work pool {name!r}; it has {known}. Create it with `python -m infra.bootstrap --pool "
                f"{name}={count}`, or name another one."
            ) from error
        queue = client.read_work_queue(pool.default_queue_id)
        if pool.is_paused or queue.is_paused:
            raise ConfigError(f"{field}: work pool {name!r} is paused. Resume it on Prefect's page, or name another one.")
        limits = [limit for limit in (pool.concurrency_limit, queue.concurrency_limit) if limit is not None]
        own = _is_mine(client, name)
        if limits and count + own > min(limits):
            also = " and holds this campaign itself" if own else ""
            raise ConfigError(
                f"{field}: work pool {name!r} runs at most {min(limits)} at once{also}. Lower the number of runners, or raise "
                f"the limit: `prefect work-pool set-concurrency-limit {name} {count + own}`."
            )
        if not (pool.is_push_pool or pool.is_managed_pool) and not _has_worker(client, name):
            raise ConfigError(
                f"{field}: no worker of work pool {name!r} is online, so nothing would begin. Start one for each slot: "
                f"`python -m infra.worker --pool {name} --limit 1`."
            )


def _has_worker(client: SyncPrefectClient, pool: str) -> bool:
    return any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool))


def _is_mine(client: SyncPrefectClient, pool: str) -> bool:
    """Whether the run that asks takes a slot of the pool itself."""
    number = flow_run.get_id()
    return number is not None and client.read_flow_run(number).work_pool_name == pool
