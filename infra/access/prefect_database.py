"""Prefect's SQLite database without "database is locked": a transaction waits for its turn when it begins.

Prefect begins most transactions without a lock and takes one at the first write. Where another one wrote in between, SQLite
refuses that write at once, whatever the timeout, and what it should have recorded is lost. A transaction that takes the lock when
it begins waits for it instead, up to Prefect's minute.

The mode holds for the one transaction only. Within it Prefect opens other sessions that read (for the event of a paused queue,
for instance); were they to ask for the lock, they would wait for the transaction that waits for them.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL


class WaitingSqlite(AioSqliteConfiguration):
    """Prefect's own, whose transactions all begin with the lock."""

    @asynccontextmanager
    async def begin_transaction(self, session: Any, with_for_update: bool = False) -> AsyncGenerator[Any, None]:
        """A transaction that nobody else's write can refuse."""
        async with session.begin() as transaction:
            token = SQLITE_BEGIN_MODE.set("IMMEDIATE")
            try:
                await session.connection()
            finally:
                SQLITE_BEGIN_MODE.reset(token)
            yield transaction


def wait_for_locks() -> None:
    """Use it in this process where Prefect's database is SQLite; before anything opens the database."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url.startswith("sqlite"):
        MODELS_DEPENDENCIES["database_config"] = WaitingSqlite(connection_url=url)
