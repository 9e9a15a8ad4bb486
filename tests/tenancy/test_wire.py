"""What a tenant's transaction sends, compared with the same one without a tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tenantry import Database
from tenantry.schema import Widget
from tenantry.tenancy.connecting import create_engine
from tests.conftest import TenantPair, Urls
from tests.tenancy.wire import Wire, recorded


@pytest.fixture
async def wire(urls: Urls) -> AsyncIterator[Wire]:
    """A recorded way to the application's database."""
    async with recorded(urls.app) as wire:
        yield wire


@pytest.fixture
async def watched(wire: Wire, urls: Urls) -> AsyncIterator[Database]:
    """A database whose packets are recorded, with one connection, so that all use the same."""
    settings = replace(urls.settings, database_url=wire.url, pool_size=1, max_overflow=0)
    async with Database.connect(settings=settings) as database:
        yield database


@pytest.fixture
async def plain(wire: Wire) -> AsyncIterator[AsyncEngine]:
    """SQLAlchemy as it is, over the same wire."""
    engine = create_engine(wire.url, pool_size=1)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 'connected'"))
    yield engine
    await engine.dispose()


async def work(tx: AsyncSession) -> None:
    """Two transactions, a savepoint rolled back, and a rollback."""
    await tx.scalars(select(Widget))
    async with tx.begin_nested() as savepoint:
        await tx.execute(text("SELECT 1"))
        await savepoint.rollback()
    await tx.scalars(select(Widget))
    await tx.commit()
    await tx.scalars(select(Widget))
    await tx.rollback()
    await tx.scalars(select(Widget))


async def test_the_tenant_costs_no_round_trip(
    watched: Database, plain: AsyncEngine, wire: Wire, tenants: TenantPair
) -> None:
    """Binding is in the packet of each BEGIN: as many round trips as without a tenant."""
    counted = []
    for _ in range(2):  # the second time, every statement is prepared
        wire.messages.clear()
        async with AsyncSession(plain) as tx:
            await work(tx)
            await tx.commit()
        counted.append(wire.round_trips)
        wire.messages.clear()
        async with watched.tenant(tenants.a.id) as tx:
            await work(tx)
        counted.append(wire.round_trips)
    assert counted[0] == counted[1] > counted[2] == counted[3]
    begins = [each for each in wire.queries if each.startswith("BEGIN")]
    assert begins == [f"BEGIN;SET LOCAL tenantry.tenant_id = '{tenants.a.id}';"] * 3
    assert [each for each in wire.queries if "CLOSE ALL; UNLISTEN *; RESET ALL;" in each] == [
        f"{end};CLOSE ALL; UNLISTEN *; RESET ALL;" for end in ("COMMIT", "ROLLBACK", "COMMIT")
    ]


async def test_opening_a_session_sends_nothing(
    watched: Database, wire: Wire, tenants: TenantPair
) -> None:
    """No connection is taken and nothing is sent before the first statement."""
    wire.messages.clear()
    async with watched.tenant(tenants.a.id) as outer, watched.tenant(tenants.b.id):
        outer.add(Widget(name="never sent"))
        outer.expunge_all()
    assert wire.messages == []


async def test_read_only_is_in_the_same_packet(
    watched: Database, wire: Wire, tenants: TenantPair
) -> None:
    """A read-only transaction says so with its BEGIN."""
    wire.messages.clear()
    async with watched.tenant(tenants.a.id, read_only=True) as tx:
        await tx.execute(text("SELECT 1"))
    assert wire.queries[0] == (
        f"BEGIN;SET TRANSACTION READ ONLY;SET LOCAL tenantry.tenant_id = '{tenants.a.id}';"
    )
