"""pytest tests/infra/test_prefect_database.py — writers of Prefect's SQLite database wait for each other and lose nothing."""

import asyncio

import pytest
import sqlalchemy as sa
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


@pytest.mark.parametrize(("url", "ours"), [("sqlite+aiosqlite:///{}/a.db", True), ("postgresql+asyncpg://h/b", False)])
def test_the_server_uses_it_for_sqlite_alone(tmp_path, url, ours, monkeypatch):
    for name in MODELS_DEPENDENCIES:
        monkeypatch.setitem(MODELS_DEPENDENCIES, name, None)
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url.format(tmp_path)}):
        wait_for_locks()
        assert isinstance(MODELS_DEPENDENCIES["database_config"], WaitingSqlite) == ours
