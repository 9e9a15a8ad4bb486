"""From its first statement to the end of its block: what a session holds, and what it refuses."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from tenantry import Database, TenantSession
from tenantry.errors import CrossTenantError, ReadOnlyError, SessionUseError
from tenantry.schema import Widget
from tests.conftest import TenantPair, Urls

BOUND = text("SELECT tenantry.current_tenant()")
BACKEND = text("SELECT pg_backend_pid()")


@pytest.fixture
async def single(urls: Urls, tenants: TenantPair) -> AsyncIterator[Database]:
    """A database with one connection, which every session must share, and no second."""
    settings = replace(urls.settings, pool_size=1, max_overflow=0)
    async with Database.connect(settings=settings) as database:
        yield database


def held(db: Database) -> int:
    """How many connections are taken from the pool."""
    return int(db._app.pool.checkedout())  # type: ignore[attr-defined]


async def test_a_commit_gives_the_connection_back(single: Database, tenants: TenantPair) -> None:
    """Nothing is held while the caller waits for something slow; then the tenant is there again."""
    async with single.tenant(tenants.a.id) as tx:
        assert held(single) == 0
        for end in (tx.commit, tx.rollback):
            tx.add(widget := Widget(name="kept"))
            await tx.flush()
            assert held(single) == 1
            await end()
            assert held(single) == 0
            async with single.tenant(tenants.b.id) as other:  # who uses it meanwhile
                assert await other.scalar(BOUND) == tenants.b.id
            assert widget.name == "kept"  # read without a statement
            assert await tx.scalar(BOUND) == tenants.a.id
            async with tx.begin_nested() as savepoint:
                assert await tx.scalar(BOUND) == tenants.a.id
                await savepoint.rollback()
            assert await tx.scalar(BOUND) == tenants.a.id


async def test_what_was_committed_within_the_block_stays(db: Database, tenants: TenantPair) -> None:
    """An exception after a commit rolls back what came after it, and no more."""
    with pytest.raises(ZeroDivisionError):
        async with db.tenant(tenants.a.id) as tx:
            tx.add(Widget(name="first"))
            await tx.commit()
            tx.add(Widget(name="second"))
            await tx.flush()
            raise ZeroDivisionError
    async with db.tenant(tenants.a.id) as tx:
        assert (await tx.scalars(select(Widget.name))).all() == ["first"]


async def test_a_session_ends_with_its_block(db: Database, tenants: TenantPair) -> None:
    """Neither a tenant's session nor the operator's can be used afterwards."""
    async with db.tenant(tenants.a.id) as tx:
        pass
    async with db.operator(reason="test") as operator:
        await operator.execute(text("SELECT 1"))
    for session in (tx, operator):
        for _ in range(2):
            with pytest.raises(SessionUseError, match="block has ended.*Open another"):
                await session.scalars(select(Widget))
            with pytest.raises(SessionUseError, match="block has ended.*Open another"):
                await session.scalar(BOUND)
            with pytest.raises(SessionUseError, match="block has ended"):
                session.add(Widget(name="x"))
    assert held(db) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "commit and chain",
        " -- a comment\n ROLLBACK",
        "/* a */ /* b */ END",
        "ABORT",
        "BEGIN",
        "START  TRANSACTION",
        "PREPARE TRANSACTION 'x'",
        "RESET ALL",
        "DISCARD ALL",
        "SET search_path = public",
        "SET SESSION statement_timeout = 0",
        "SET ROLE tenantry_app",
    ],
)
async def test_what_would_lose_the_tenant_is_refused(
    statement: str, db: Database, tenants: TenantPair
) -> None:
    """Transactions and settings by hand: nothing is sent, and the session goes on."""
    async with db.tenant(tenants.a.id) as tx:
        with pytest.raises(SessionUseError, match="nothing was sent. Use"):
            await tx.execute(text(statement))
        assert await tx.scalar(BOUND) == tenants.a.id


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        ("SET LOCAL tenantry.tenant_id = '{}'", {}),
        ("set local TENANTRY . tenant_id to '{}'", {}),
        ('SET LOCAL "tenantry"."tenant_id" = \'{}\'', {}),
        ("SELECT set_config('tenantry.tenant_id', '{}', true)", {}),
        ("SELECT pg_catalog.SET_CONFIG(:name, '{}', false)", {"name": "tenantry.tenant_id"}),
        ("RESET tenantry.tenant_id", {}),
    ],
)
async def test_the_tenant_is_not_set_by_hand(
    statement: str, parameters: dict[str, str], db: Database, tenants: TenantPair
) -> None:
    """A session is bound for its whole life: another tenant needs another session."""
    async with db.tenant(tenants.a.id) as tx:
        with pytest.raises(CrossTenantError, match=r"by hand.*db\.tenant\(\)"):
            await tx.execute(text(statement.format(tenants.b.id)), parameters)
        assert await tx.scalar(BOUND) == tenants.a.id


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL statement_timeout = '5s'",
        "SET CONSTRAINTS ALL DEFERRED",
        "SELECT set_config('hnsw.ef_search', '100', true)",
        "SELECT current_setting('tenantry.tenant_id')",
        "SELECT 'COMMIT; SET tenantry.tenant_id'",
        "SAVEPOINT mine",
    ],
)
async def test_what_is_harmless_passes(statement: str, db: Database, tenants: TenantPair) -> None:
    """Settings for the transaction, savepoints, and text that only looks like it."""
    async with db.tenant(tenants.a.id) as tx:
        await tx.execute(text(statement))


async def test_autocommit_is_refused(db: Database, tenants: TenantPair) -> None:
    """Without a transaction there is nothing that the tenant could be bound to."""
    with pytest.raises(SessionUseError, match="AUTOCOMMIT"):
        async with db.tenant(tenants.a.id) as tx:
            _ = await tx.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    async with db.tenant(tenants.a.id) as tx:
        _ = await tx.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        assert await tx.scalar(text("SHOW transaction_isolation")) == "serializable"
        assert await tx.scalar(BOUND) == tenants.a.id
    async with db.tenant(tenants.a.id) as tx:
        assert await tx.scalar(text("SHOW transaction_isolation")) == "read committed"


async def test_an_engine_of_another_make_is_refused(urls: Urls, tenants: TenantPair) -> None:
    """A session on a connection that cannot bind the tenant sends nothing."""
    url = urls.app.set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    async with TenantSession(engine, tenant_id=tenants.a.id) as tx:
        with pytest.raises(SessionUseError, match=r"db\.tenant"):
            await tx.execute(text("SELECT 1"))
    await engine.dispose()


async def test_an_object_given_to_another_tenant_is_not_sent(
    db: Database, tenants: TenantPair
) -> None:
    """A tenant assigned after the object was added, or brought by merge, is refused before SQL."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(widget := Widget(name="x"))
        await tx.commit()
        widget_id, widget.tenant_id = widget.id, tenants.b.id
        with pytest.raises(CrossTenantError, match=str(tenants.b.id)):
            await tx.flush()
        await tx.rollback()
        assert held(db) == 0
        with pytest.raises(CrossTenantError, match=str(tenants.b.id)):
            await tx.merge(Widget(id=widget_id, tenant_id=tenants.b.id, name="x"))
        assert held(db) == 0
        merged = await tx.merge(Widget(id=widget_id, tenant_id=tenants.a.id, name="merged"))
    assert merged.name == "merged"


async def test_read_only_refuses_to_write(db: Database, tenants: TenantPair) -> None:
    """On the primary as on a replica, through the ORM and in SQL by hand."""
    async with db.tenant(tenants.a.id, read_only=True) as tx:
        assert (await tx.scalars(select(Widget))).all() == []
        assert await tx.scalar(text("SHOW transaction_read_only")) == "on"
    with pytest.raises(ReadOnlyError, match="read-only"):
        async with db.tenant(tenants.a.id, read_only=True) as tx:
            tx.add(Widget(name="x"))
    async with db.tenant(tenants.a.id) as tx:
        assert await tx.scalar(text("SHOW transaction_read_only")) == "off"


async def test_a_tenant_within_another_tenants_block(db: Database, tenants: TenantPair) -> None:
    """The inner block has its own connection, and the outer one goes on as it was."""
    async with db.tenant(tenants.a.id) as outer:
        outer.add(Widget(name="outer"))
        await outer.flush()
        async with db.tenant(tenants.b.id) as inner:
            inner.add(Widget(name="inner"))
            assert await outer.scalar(BOUND) == tenants.a.id
            assert await inner.scalar(BOUND) == tenants.b.id
        assert (await outer.scalars(select(Widget.name))).all() == ["outer"]


async def test_a_connection_in_doubt_is_discarded(single: Database, tenants: TenantPair) -> None:
    """After a cancelled statement or a failed commit, the next session gets another connection."""

    async def backend() -> int:
        async with single.tenant(tenants.b.id) as tx:
            assert await tx.scalar(BOUND) == tenants.b.id
            return int(await tx.scalar(BACKEND) or 0)

    async def sleep() -> None:
        async with single.tenant(tenants.a.id) as tx:
            await tx.execute(text("SELECT pg_sleep(30)"))

    first = await backend()
    assert await backend() == first
    task = asyncio.create_task(sleep())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    second = await backend()
    assert second != first
    with pytest.raises(IntegrityError):
        async with single.tenant(tenants.a.id) as tx:
            tx.add_all([Widget(id=(same := uuid4()), name="x"), Widget(id=same, name="y")])
    assert await backend() == second  # a refused statement leaves no doubt


async def test_the_connection_of_a_failed_commit_is_discarded(
    single: Database, tenants: TenantPair, urls: Urls
) -> None:
    """COMMIT was refused, and with it the cleaning was not done."""
    async with Database.connect(settings=urls.settings) as other, other.operator() as admin:
        await admin.execute(text("SET LOCAL ROLE postgres"))
        await admin.execute(
            text(
                "ALTER TABLE widgets ALTER CONSTRAINT widgets_tenant_id_fkey"
                " DEFERRABLE INITIALLY DEFERRED"
            )
        )
    async with single.tenant(tenants.b.id) as tx:
        first = await tx.scalar(BACKEND)
    unknown = uuid4()
    with pytest.raises(Exception, match="no such tenant"):
        async with single.tenant(unknown) as tx:
            await tx.execute(text("DECLARE left_open CURSOR WITH HOLD FOR SELECT 1"))
            tx.add(Widget(name="x"))
    async with single.tenant(tenants.b.id) as tx:
        assert await tx.scalar(BACKEND) != first
        assert await tx.scalar(text("SELECT count(*) FROM pg_cursors WHERE is_holdable")) == 0


async def test_nothing_is_left_for_the_next_session(single: Database, tenants: TenantPair) -> None:
    """Cursors WITH HOLD, settings and channels of one tenant are gone for the next."""
    async with single.tenant(tenants.a.id) as tx:
        tx.add(Widget(name="secret"))
        await tx.flush()
        await tx.execute(text("DECLARE left_open CURSOR WITH HOLD FOR TABLE widgets"))
        await tx.execute(text("SELECT set_config('search_path', 'pg_temp', false)"))
        await tx.execute(text("LISTEN everything"))
        first = await tx.scalar(BACKEND)
    async with single.tenant(tenants.b.id) as tx:
        assert await tx.scalar(BACKEND) == first
        assert await tx.scalar(text("SELECT count(*) FROM pg_cursors WHERE is_holdable")) == 0
        assert await tx.scalar(text("SHOW search_path")) == '"$user", public'
        assert (await tx.execute(text("SELECT pg_listening_channels()"))).all() == []


async def test_a_generator_dependency_may_end_in_another_task(
    db: Database, tenants: TenantPair
) -> None:
    """As web frameworks do it: opened in one task, closed in another, many at a time."""

    async def dependency(tenant: UUID) -> AsyncGenerator[TenantSession, None]:
        async with db.tenant(tenant) as tx:
            yield tx

    async def request(tenant: UUID, number: int) -> None:
        generator = dependency(tenant)
        tx = await anext(generator)
        tx.add(Widget(name=f"{tenant} {number}"))
        assert await tx.scalar(BOUND) == tenant
        if number % 3:
            await asyncio.create_task(anext(generator, None))
        else:
            with pytest.raises(ZeroDivisionError):
                await asyncio.create_task(generator.athrow(ZeroDivisionError()))

    async with asyncio.TaskGroup() as group:
        for number in range(60):
            tenant = (tenants.a, tenants.b)[number % 2]
            group.create_task(request(tenant.id, number))
    for offset, tenant in enumerate(tenants):
        async with db.tenant(tenant.id) as tx:
            names = set(await tx.scalars(select(Widget.name)))
        assert names == {f"{tenant.id} {n}" for n in range(offset, 60, 2) if n % 3}


async def test_another_event_loop_is_told_so(db: Database, tenants: TenantPair) -> None:
    """A thread with a loop of its own needs a Database of its own."""
    caught: list[BaseException] = []

    async def use() -> None:
        async with db.tenant(tenants.a.id) as tx:
            await tx.execute(text("SELECT 1"))

    def run() -> None:
        try:
            asyncio.run(use())
        except SessionUseError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert "another event loop" in str(caught[0])


async def test_objects_can_be_pickled(db: Database, tenants: TenantPair) -> None:
    """What a session has loaded can go to a cache or another process, without the session."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(Widget(name="x"))
        await tx.commit()
        loaded = (await tx.scalars(select(Widget))).one()
    copy = pickle.loads(pickle.dumps(loaded))
    assert (copy.id, copy.name) == (loaded.id, "x")
    async with db.tenant(tenants.b.id) as tx:
        with pytest.raises(CrossTenantError):
            tx.add(copy)
