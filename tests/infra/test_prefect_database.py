"""pytest tests/infra/test_prefect_database.py — writers of Prefect's SQLite database wait for each other and lose nothing."""

import asyncio

import pytest
import sqlalchemy as sa
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

from infra.access.prefect_database import WaitingSqlite, wait_for_locks


async def written(config, writers):
    """How many of so many writers, each of which reads before it writes, end with what they wrote kept; the others' errors."""
    engine = await config.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE IF NOT EXISTS kept (number INTEGER)"))

    async def write(number):
        session = await config.session(engine)
        async with session, config.begin_transaction(session):
            await session.execute(sa.text("SELECT count(*) FROM kept"))
            await asyncio.sleep(0.02)
            await session.execute(sa.text(f"INSERT INTO kept VALUES ({number})"))

    errors = [error for error in await asyncio.gather(*map(write, range(writers)), return_exceptions=True) if error]
    async with engine.connect() as connection:
        count = (await connection.execute(sa.text("SELECT count(*) FROM kept"))).scalar()
    await engine.dispose()
    return count, [str(error) for error in errors]


def test_writers_that_read_first_wait_for_each_other(tmp_path):
    """Prefect's own configuration shows what is mended: when it loses nothing any more, this one can go."""
    count, errors = asyncio.run(written(AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/own.db"), 6))
    assert count < 6 and all("database is locked" in error for error in errors)
    assert asyncio.run(written(WaitingSqlite(f"sqlite+aiosqlite:///{tmp_path}/ours.db"), 12)) == (12, [])


async def read_inside(config):
    """What a session of its own reads within a transaction that has written, and what stands there afterwards."""
    engine = await config.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE kept (number INTEGER)"))
    session, other = await config.session(engine), await config.session(engine)
    async with session, config.begin_transaction(session):
        await session.execute(sa.text("INSERT INTO kept VALUES (1)"))
        async with other:
            inside = (await other.execute(sa.text("SELECT count(*) FROM kept"))).scalar()
    async with engine.connect() as connection:
        after = (await connection.execute(sa.text("SELECT count(*) FROM kept"))).scalar()
    await engine.dispose()
    return inside, after


def test_a_session_within_a_transaction_does_not_wait_for_it(tmp_path):
    """It would for a minute, with every other writer behind it."""
    made = asyncio.run(asyncio.wait_for(read_inside(WaitingSqlite(f"sqlite+aiosqlite:///{tmp_path}/a.db")), 30))
    assert made == (0, 1)


def test_what_people_change_in_the_screens_does_not_hold_the_server_up(stack):
    """Prefect reads a queue's pool for an event while it writes the queue; the lock is waited for a minute."""
    with get_client(sync_client=True, httpx_settings={"timeout": 30}) as client:
        client.create_work_pool(WorkPoolCreate(name="changed", type="process"))
        queue = client.read_work_queue_by_name("default", work_pool_name="changed")
        for paused in (True, False):
            client.update_work_queue(queue.id, is_paused=paused)
            assert client.read_work_queue(queue.id).is_paused == paused
            client.update_work_pool("changed", WorkPoolUpdate(is_paused=paused))
            assert client.read_work_pool("changed").is_paused == paused
        client.update_work_queue(queue.id, concurrency_limit=2, description="two at a time")
        client.create_concurrency_limit("changed", 1)
        client.delete_concurrency_limit_by_tag("changed")
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="changed", limit=1))
        client.delete_global_concurrency_limit_by_name("changed")
        client.delete_work_pool("changed")


@pytest.mark.parametrize(("url", "ours"), [("sqlite+aiosqlite:///{}/a.db", True), ("postgresql+asyncpg://h/b", False)])
def test_the_server_uses_it_for_sqlite_alone(tmp_path, url, ours, monkeypatch):
    for name in MODELS_DEPENDENCIES:
        monkeypatch.setitem(MODELS_DEPENDENCIES, name, None)
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url.format(tmp_path)}):
        wait_for_locks()
        assert isinstance(MODELS_DEPENDENCIES["database_config"], WaitingSqlite) == ours
