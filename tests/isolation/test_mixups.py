"""Sessions of several tenants at once: tasks, threads, cancellations, blocks within blocks."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import create_async_engine

from tenantry import Database, Settings, TenantSession
from tenantry.errors import TenantryError
from tenantry.schema import Tenant, Widget
from tenantry.schema.row_security import APP_ROLE
from tests.conftest import Server

TENANTS = [UUID(int=0xA0 + n) for n in range(4)]


@dataclass(frozen=True)
class Crowd:
    """Four tenants with a widget each, whose name is the tenant's id."""

    settings: Settings
    db: Database

    async def apart(self, tx: TenantSession) -> None:
        """The session sees its tenant's row and no other, by the ORM and by hand."""
        expected = [tx.tenant_id.hex]
        assert (await tx.scalars(text("SELECT name FROM widgets"))).all() == expected
        assert (await tx.scalars(select(Widget.name))).all() == expected

    async def every_connection_is_clean(self) -> None:
        """Each connection of the pool, all taken at once, serves whoever comes next."""
        at_once = self.settings.pool_size + self.settings.max_overflow
        async with contextlib.AsyncExitStack() as stack:
            for number in range(at_once):
                tenant = TENANTS[number % len(TENANTS)]
                tx = await stack.enter_async_context(self.db.tenant(tenant))
                assert await tx.scalar(text("SELECT tenantry.current_tenant()")) == tenant
                await self.apart(tx)


@pytest.fixture(scope="module", params=[1, 3], ids=["one connection", "three connections"])
async def crowd(
    request: pytest.FixtureRequest, server: Server, template: str
) -> AsyncIterator[Crowd]:
    name = await server.create_database(template=template)
    settings = Settings(
        database_url=server.at(name, user=APP_ROLE),
        admin_url=server.at(name),
        pool_size=request.param,
        max_overflow=0,
    )
    async with Database.connect(settings=settings) as db:
        async with db.operator(reason="test") as tx:
            tx.add_all([Tenant(id=each, name="x", slug=each.hex) for each in TENANTS])
            await tx.flush()
            tx.add_all([Widget(tenant_id=each, name=each.hex) for each in TENANTS])
        yield Crowd(settings, db)
    await server.drop_database(name)


async def test_tasks_take_turns_on_the_connections(crowd: Crowd) -> None:
    """Forty tasks of four tenants, more than there are connections, each see their own row."""

    async def work(tenant: UUID) -> None:
        async with crowd.db.tenant(tenant) as tx:
            for _ in range(2):
                await crowd.apart(tx)
                await tx.commit()
                await asyncio.sleep(0)

    await asyncio.gather(*(work(TENANTS[n % 4]) for n in range(40)))
    await crowd.every_connection_is_clean()


async def test_blocks_within_blocks(crowd: Crowd) -> None:
    """A tenant's block within another's has its own tenant, and the outer one keeps its own."""
    async with crowd.db.tenant(TENANTS[0]) as outer:
        await crowd.apart(outer)
        await outer.commit()
        async with crowd.db.tenant(TENANTS[1]) as inner:
            await crowd.apart(inner)
            await inner.commit()
            async with crowd.db.tenant(TENANTS[2]) as innermost:
                await crowd.apart(innermost)
        await crowd.apart(outer)


async def test_one_task_hands_a_session_to_another(crowd: Crowd) -> None:
    """A session keeps its tenant wherever it is used, and whoever else works meanwhile."""
    async with crowd.db.tenant(TENANTS[0]) as tx:
        await asyncio.create_task(crowd.apart(tx))
        await tx.rollback()

        async def aside() -> None:
            async with crowd.db.tenant(TENANTS[1]) as other:
                await crowd.apart(other)

        await asyncio.gather(aside(), asyncio.create_task(aside()))
        await asyncio.create_task(crowd.apart(tx))


async def test_a_generator_is_closed_in_another_task(crowd: Crowd) -> None:
    """A dependency that yields a session may be closed elsewhere, as frameworks do."""

    async def dependency(tenant: UUID) -> AsyncIterator[TenantSession]:
        async with crowd.db.tenant(tenant) as tx:
            yield tx

    for tenant in TENANTS * 2:
        generator = dependency(tenant)
        tx = await anext(generator)
        await crowd.apart(tx)
        # Half are read to their end, half are closed with an exception within.
        ending = generator.aclose() if tenant is TENANTS[0] else anext(generator, None)  # type: ignore[attr-defined]
        await asyncio.create_task(run(ending))
        with pytest.raises(TenantryError):
            await tx.execute(text("SELECT 1"))
    await crowd.every_connection_is_clean()


async def run(work: Awaitable[object]) -> None:
    await work


async def test_streams_that_are_left_open(crowd: Crowd) -> None:
    """A stream that nobody reads to its end does not carry its rows to the next session."""
    for tenant in TENANTS * 2:
        async with crowd.db.tenant(tenant) as tx:
            rows = await tx.stream(text("SELECT tenant_id FROM widgets, generate_series(1, 2000)"))
            assert (await anext(aiter(rows)))[0] == tenant
    await crowd.every_connection_is_clean()


def test_threads_have_loops_and_databases_of_their_own(crowd: Crowd) -> None:
    """Four threads, each with its loop and its Database, side by side: nothing crosses."""

    async def work(tenant: UUID) -> None:
        async with Database.connect(settings=crowd.settings) as db:
            own = Crowd(crowd.settings, db)
            for _ in range(5):
                async with db.tenant(tenant) as tx:
                    await own.apart(tx)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(asyncio.run, work(tenant)) for tenant in TENANTS]:
            done.result(30)


async def test_without_the_library_the_next_one_is_the_last_one(crowd: Crowd) -> None:
    """Set for the session, as is widely done, a tenant stays on the connection in the pool."""
    assert crowd.settings.database_url is not None
    url = crowd.settings.database_url.set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"SET tenantry.tenant_id = '{TENANTS[0]}'"))
        async with engine.begin() as connection:
            rows = await connection.scalars(text("SELECT name FROM widgets"))
            assert rows.all() == [TENANTS[0].hex]
    finally:
        await engine.dispose()


# Cancellations

Work = Callable[[Crowd, TenantSession], Awaitable[object]]


async def write(crowd: Crowd, tx: TenantSession) -> None:
    """Statements, savepoints and commits that leave the rows as they are."""
    await crowd.apart(tx)
    async with tx.begin_nested():
        tx.add(Widget(name="passing"))
        await tx.flush()
        await tx.execute(text("DELETE FROM widgets WHERE name = 'passing'"))
    await tx.commit()
    await crowd.apart(tx)


async def hold(crowd: Crowd, tx: TenantSession) -> None:
    """What would show if it stayed on the connection."""
    await tx.execute(text("DECLARE loot CURSOR WITH HOLD FOR SELECT name FROM widgets"))
    await tx.execute(
        text("SELECT set_config('app.loot', :name, false)"), {"name": tx.tenant_id.hex}
    )
    await tx.commit()
    left = await tx.scalar(text("SELECT current_setting('app.loot', true)"))
    assert not left
    await crowd.apart(tx)


async def stream(crowd: Crowd, tx: TenantSession) -> None:
    query = text("SELECT tenant_id FROM widgets, generate_series(1, 300)")
    async for row in await tx.stream(query):
        assert row[0] == tx.tenant_id


async def sleep(crowd: Crowd, tx: TenantSession) -> None:
    await tx.execute(text("SELECT pg_sleep(0.01), name FROM widgets"))
    await crowd.apart(tx)


@pytest.mark.parametrize("work", [write, hold, stream, sleep])
async def test_cancellations_leave_no_connection_in_doubt(crowd: Crowd, work: Work) -> None:
    """Hundreds of tasks, cancelled at any moment: opening, waiting, reading, committing, leaving.

    Those that are not cancelled, and all that come after, see what is theirs.
    """
    chance = random.Random(work.__name__)
    ended: Counter[str] = Counter()

    async def one(tenant: UUID) -> None:
        async with crowd.db.tenant(tenant) as tx:
            await work(crowd, tx)

    async def cancelled_at_random(number: int) -> None:
        task = asyncio.create_task(one(TENANTS[number % 4]))
        patience = chance.choice([0, 0.001, 0.004, 0.01, 0.03, 5])
        done, _ = await asyncio.wait([task], timeout=patience)
        if not done:
            task.cancel()
            await asyncio.wait([task])
        ended["cancelled" if task.cancelled() else "done"] += 1
        if not task.cancelled():
            task.result()

    for batch in range(15):
        await asyncio.gather(*(cancelled_at_random(batch + n) for n in range(8)))
    assert ended["cancelled"] > 20
    assert ended["done"] > 10
    await crowd.every_connection_is_clean()
    async with crowd.db.operator(reason="test") as tx:
        names = sorted((await tx.scalars(select(Widget.name))).all())
        assert names == sorted(tenant.hex for tenant in TENANTS)
