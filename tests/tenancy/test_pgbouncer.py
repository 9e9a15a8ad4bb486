"""Behind PgBouncer in transaction mode, where each transaction may get another connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import URL, func, select, text

from tenantry import Database, Settings
from tenantry.errors import TenantryError
from tenantry.schema import Tenant, Widget
from tests.conftest import Connect, Server, TenantPair, Urls
from tests.pgbouncer import pgbouncer

TENANTS, SERVER_CONNECTIONS, CLIENTS, BLOCKS = 200, 2, 25, 1000


@pytest.fixture
async def pooled(server: Server, urls: Urls) -> AsyncIterator[URL]:
    """The application's URL through PgBouncer, with two connections to the server."""
    async with pgbouncer(server.url, connections=SERVER_CONNECTIONS) as url:
        yield url.set(username=urls.app.username, database=urls.app.database)


async def test_a_pooler_is_noticed(urls: Urls, pooled: URL) -> None:
    """Statements are kept prepared on a connection of one's own, and not behind a pooler."""
    for url, expected in ((urls.app, False), (pooled, True)):
        async with Database.connect(url) as db:
            assert db.settings.pooler is expected
    async with Database.connect(settings=Settings(database_url=pooled, pooler=False)) as db:
        assert db.settings.pooler is False  # whoever says it is believed


async def test_tenants_do_not_mix(urls: Urls, pooled: URL, connect: Connect) -> None:
    """200 tenants over two connections, a third of the blocks cancelled: nothing crosses.

    What a tenant reads is its own, and what is there in the end is what was committed.
    """
    settings = Settings(
        database_url=pooled, admin_url=urls.admin, pool_size=CLIENTS, max_overflow=0
    )
    chance = random.Random(3)
    committed: dict[UUID, set[str]] = {}
    unknown: set[str] = set()  # cancelled while its commit was under way
    cancelled = 0

    async def block(db: Database, tenant: UUID, name: str) -> None:
        async with db.tenant(tenant) as tx:
            tx.add(Widget(name=name))
            await tx.flush()
            rows = (await tx.execute(text("SELECT tenant_id, name FROM widgets"))).all()
            assert {row.tenant_id for row in rows} == {tenant}
            assert {row.name for row in rows} - unknown == committed[tenant] | {name}
            if chance.random() < 0.2:
                await tx.execute(text("SELECT pg_sleep(0.002)"))
            unknown.add(name)
        committed[tenant].add(name)
        unknown.discard(name)

    async def client(db: Database, blocks: int, tenants: list[UUID]) -> None:
        nonlocal cancelled
        for _ in range(blocks):
            tenant = chance.choice(tenants)
            task = asyncio.create_task(block(db, tenant, f"{tenant}/{chance.random()}"))
            if chance.random() < 1 / 3:
                await asyncio.sleep(chance.random() * 0.03)
                task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                cancelled += 1

    async with Database.connect(settings=settings) as db:
        rows = [Tenant(name=f"t{i}", slug=f"t{i}") for i in range(TENANTS)]
        async with db.operator(reason="test") as operator:
            operator.add_all(rows)
        committed.update((row.id, set()) for row in rows)
        # One tenant belongs to one client: its blocks follow each other, so each knows its past.
        async with asyncio.TaskGroup() as group:
            for i in range(CLIENTS):
                own = [row.id for row in rows[i::CLIENTS]]
                group.create_task(client(db, BLOCKS // CLIENTS, own))
        assert cancelled > BLOCKS / 20
        for tenant, names in committed.items():
            async with db.tenant(tenant) as tx:
                found = set((await tx.scalars(select(Widget.name))).all())
            assert names <= found <= names | unknown
        async with db.operator(reason="test") as operator:
            total = await operator.scalar(select(func.count()).select_from(Widget))
        assert total is not None
        assert total >= sum(map(len, committed.values())) > BLOCKS / 3
        admin = await connect(urls.admin)
        opened = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND datname = $2",
            urls.app.username,
            urls.app.database,
        )
        assert opened <= SERVER_CONNECTIONS


async def test_what_another_client_left_behind_is_cleaned_up(
    db: Database, tenants: TenantPair, server: Server, urls: Urls, connect: Connect
) -> None:
    """A cursor and a setting of one transaction are not there in the next client's."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(Widget(name="secret"))
    async with pgbouncer(server.url, connections=1) as bouncer:
        url = bouncer.set(username=urls.app.username, database=urls.app.database)
        async with Database.connect(settings=Settings(database_url=url)) as through:
            async with through.tenant(tenants.a.id) as tx:
                await tx.execute(text("DECLARE left_open CURSOR WITH HOLD FOR TABLE widgets"))
                await tx.execute(text("SELECT set_config('search_path', 'pg_temp', false)"))
                backend = await tx.scalar(text("SELECT pg_backend_pid()"))
            other = await asyncpg.connect(
                url.render_as_string(hide_password=False), statement_cache_size=0
            )
            try:
                assert await other.fetchval("SELECT pg_backend_pid()") == backend
                assert (
                    await other.fetchval("SELECT count(*) FROM pg_cursors WHERE is_holdable") == 0
                )
                assert await other.fetchval("SHOW search_path") == '"$user", public'
            finally:
                await other.close()


async def test_the_operator_does_not_go_through_a_pooler(
    server: Server, urls: Urls, tenants: TenantPair
) -> None:
    """A pooler that drops the operator's role is refused, and so is one that does not know it."""
    for options, message in (
        ("ignore_startup_parameters = role", "dropped the role tenantry_operator"),
        ("", "does not take the role"),
    ):
        async with pgbouncer(server.url, connections=1, options=options) as url:
            admin = url.set(username=urls.admin.username, database=urls.admin.database)
            async with Database.connect(urls.app, admin_url=admin) as db:
                with pytest.raises(TenantryError, match=message):
                    async with db.operator(reason="test") as tx:
                        await tx.scalars(select(Tenant))
