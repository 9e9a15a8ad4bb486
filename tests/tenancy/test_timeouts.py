"""A server that is slow, or gives no answer at all, and a pool whose connections are all in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tenantry import Database
from tenantry.errors import DatabaseUnavailableError
from tenantry.schema import User
from tenantry.tenancy.fetching import fetch
from tenantry.tenancy.sessions import TenantSession
from tests.auth.gateway import gateway
from tests.conftest import TenantPair, Urls

LIMIT = 0.3
SLEEP = "SELECT pg_sleep(30)"

Ask = Callable[[TenantSession, str], Awaitable[Any]]
WAYS: dict[str, Ask] = {
    "SQLAlchemy": lambda tx, query: tx.execute(text(query)),
    "driver": fetch,
}
by_each_way = pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)


def used(db: Database) -> int:
    """The connections that are in use."""
    return sum(each.value for each in db.readings() if each.quantity == "connections_used")


@by_each_way
async def test_a_slow_statement_is_ended(
    urls: Urls, tenants: TenantPair, admin: asyncpg.Connection, ask: Ask
) -> None:
    """The caller is told in time, the server stops as well, and the next session is served."""
    settings = replace(urls.settings, statement_timeout_seconds=LIMIT)
    async with Database.connect(settings=settings) as db:
        started = time.monotonic()
        with pytest.raises(
            DatabaseUnavailableError, match=r"in time\. The limit is statement_timeout_seconds"
        ):
            async with db.tenant(tenants.a.id) as tx:
                await ask(tx, SLEEP)
        assert LIMIT <= time.monotonic() - started < 10
        assert used(db) == 0
        async with asyncio.timeout(5):
            while await admin.fetchval(  # noqa: ASYNC110 - it is the server that waits
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND state = 'active' AND query LIKE '%pg_sleep(30)' AND pid <> pg_backend_pid()"
            ):
                await asyncio.sleep(0.02)
        async with db.tenant(tenants.a.id) as tx:
            assert await tx.scalar(select(1)) == 1


@by_each_way
async def test_a_server_that_hangs_is_not_waited_for(
    urls: Urls, tenants: TenantPair, ask: Ask
) -> None:
    """No answer at all, not even to ROLLBACK: nobody hangs with it, and no connection is lost."""
    async with gateway(urls.app) as way:
        settings = replace(
            urls.settings,
            database_url=way.url,
            connect_timeout_seconds=LIMIT,
            statement_timeout_seconds=LIMIT,
        )
        async with Database.connect(settings=settings) as db:
            async with asyncio.timeout(15):
                with pytest.raises(DatabaseUnavailableError):
                    async with db.tenant(tenants.a.id) as tx:
                        await ask(tx, "SELECT 1")
                        way.passing = False
                        await ask(tx, "SELECT 2")
            assert used(db) == 0
            way.passing = True
            async with db.tenant(tenants.a.id) as tx:
                assert (await tx.scalars(select(User))).all() == []


async def test_a_pool_in_use_is_waited_for_so_long(urls: Urls, tenants: TenantPair) -> None:
    """Whoever finds no connection free learns it after the time that the settings say."""
    settings = replace(urls.settings, pool_size=1, max_overflow=0, pool_timeout_seconds=LIMIT)
    async with Database.connect(settings=settings) as db, db.tenant(tenants.a.id) as holding:
        await holding.execute(text("SELECT 1"))
        started = time.monotonic()
        with pytest.raises(PoolTimeoutError):
            async with db.tenant(tenants.b.id) as tx:
                await tx.execute(text("SELECT 1"))
        assert LIMIT <= time.monotonic() - started < 10
