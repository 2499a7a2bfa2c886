"""pytest tests/scale/test_pools.py — a pool that cannot hold the runners is refused by field, before any work."""

import uuid

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate

from infra.bootstrap import main, prepare_pool
from opsd_core.config import resolve
from opsd_core.errors import ConfigError, RefusedError
from tasks.runtime.deployments import registered
from tasks.stages.placement.pools import check_pools


@pytest.fixture
def client(stack):
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def pool(client):
    """A pool of two slots, with a worker that has just been heard of."""
    name = f"pool-{uuid.uuid4().hex[:6]}"
    prepare_pool(client, name, 2)
    client.send_worker_heartbeat(work_pool_name=name, worker_name="w", heartbeat_interval_seconds=30.0)
    return name


@pytest.mark.parametrize(
    ("execution", "said"),
    [
        ({"placement": "workers"}, r"execution.*needs execution\.pools"),
        ({"placement": "workers", "pools": {"gpu": 0}}, r"execution\.pools\.gpu"),
        ({"placement": "workers", "pools": {"gpu": 1001}}, r"execution\.pools\.gpu"),
        ({"placement": "workers", "pools": {"": 1}}, r"execution\.pools"),
        ({"placement": "elsewhere"}, r"execution\.placement"),
    ],
)
def test_settings_that_no_pool_could_satisfy_are_refused_when_they_are_read(execution, said):
    with pytest.raises(ConfigError, match=said):
        resolve("tiny", {"execution": execution})


def test_a_pool_that_holds_its_runners_is_taken(client, pool):
    check_pools(client, {pool: 2})


def test_a_pool_that_does_not_exist_is_named_with_those_that_do(client, pool):
    with pytest.raises(ConfigError, match=rf"execution\.pools\.nowhere=1: Prefect has no work pool 'nowhere'; it has .*{pool}"):
        check_pools(client, {pool: 1, "nowhere": 1})


def test_more_runners_than_slots_are_refused_with_the_limit(client, pool):
    with pytest.raises(ConfigError, match=rf"execution\.pools\.{pool}=3: work pool '{pool}' runs at most 2 at once"):
        check_pools(client, {pool: 3})


def test_a_pool_without_a_worker_or_paused_is_refused(client, pool):
    empty = f"empty-{uuid.uuid4().hex[:6]}"
    assert main(["--pool", f"{empty}=4"]) == 0 and client.read_work_pool(empty).concurrency_limit == 4
    with pytest.raises(ConfigError, match=rf"execution\.pools\.{empty}=1: no worker of work pool '{empty}' is online"):
        check_pools(client, {empty: 1})
    client.update_work_pool(pool, WorkPoolUpdate(is_paused=True))
    with pytest.raises(ConfigError, match=rf"execution\.pools\.{pool}=1: work pool '{pool}' is paused"):
        check_pools(client, {pool: 1})


@pytest.mark.parametrize("given", ["gpu", "gpu=", "=3", "gpu=0", "gpu=many"])
def test_a_pool_without_a_number_of_slots_is_refused(given, capsys):
    assert main(["--pool", given]) == 1
    assert f"--pool {given.partition('=')[0] or given.partition('=')[2]}" in capsys.readouterr().err


def test_a_deployment_that_the_server_does_not_have_is_refused_by_the_setting_and_never_tried_again(client):
    with pytest.raises(RefusedError, match=r"execution\.placement=workers needs the deployment opsd/absent, which .*\(opsd up"):
        registered(client, "opsd/absent", "execution.placement=workers")
