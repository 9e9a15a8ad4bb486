"""Transactions that stand in each other's way: one is undone, says so, and can run again."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import select, text, update

from tenantry import Database, TenantSession
from tenantry.auth import Auth
from tenantry.auth.tokens import make_token
from tenantry.errors import DatabaseUnavailableError, RetryLaterError, TransactionUndoneError
from tenantry.knowledge import Chunk, add_document, load_chunks, replace_document
from tenantry.schema import Widget
from tenantry.tenancy.fetching import fetch
from tests.conftest import TenantPair, Urls

Change = Callable[[TenantSession, UUID], Awaitable[object]]


@pytest.fixture
async def hasty(
    urls: Urls, tenants: TenantPair, admin: asyncpg.Connection
) -> AsyncIterator[Database]:
    """A database in which a deadlock is looked for at once, and not after a second."""
    await admin.execute(f'ALTER DATABASE "{urls.app.database}" SET deadlock_timeout = 10')
    database = Database(urls.settings)
    yield database
    await database.close()


async def widgets(db: Database, tenants: TenantPair) -> tuple[UUID, UUID]:
    async with db.tenant(tenants.a.id) as tx:
        made = Widget(name="one"), Widget(name="other")
        tx.add_all(made)
    return made[0].id, made[1].id


async def documents(db: Database, tenants: TenantPair) -> tuple[UUID, UUID]:
    async with db.tenant(tenants.a.id) as tx:
        one, other = [await add_document(tx, title=each, content=each) for each in ("a", "b")]
    return one, other


async def rename(tx: TenantSession, id_: UUID) -> None:
    await tx.execute(update(Widget).where(Widget.id == id_).values(name="changed"))


async def rename_object(tx: TenantSession, id_: UUID) -> None:
    (await tx.get_one(Widget, id_)).name = "changed"
    await tx.flush()


async def lock(tx: TenantSession, id_: UUID) -> None:
    await fetch(tx, "SELECT FROM widgets WHERE id = $1 FOR UPDATE", id_)


async def replace(tx: TenantSession, id_: UUID) -> None:
    await replace_document(tx, id_, title="new", content="new", chunks=["new"])


async def load(tx: TenantSession, id_: UUID) -> None:
    await load_chunks(tx, ["secret"], document_id=id_)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (widgets, rename),
        (widgets, rename_object),
        (widgets, lock),
        (documents, replace),
        (documents, load),
    ],
)
async def test_of_two_that_wait_for_each_other_one_can_run_again(
    hasty: Database,
    tenants: TenantPair,
    make: Callable[[Database, TenantPair], Awaitable[tuple[UUID, UUID]]],
    change: Change,
) -> None:
    """Whatever the statements are: the other one commits, and the same again succeeds."""
    one, other = await make(hasty, tenants)
    begun = asyncio.Barrier(2)

    async def work(*ids: UUID, at_once: bool = True) -> None:
        async with hasty.tenant(tenants.a.id) as tx:
            await change(tx, ids[0])
            if at_once:
                await begun.wait()
            await change(tx, ids[1])

    ended = await asyncio.gather(work(one, other), work(other, one), return_exceptions=True)
    (error,) = [each for each in ended if each is not None]
    assert isinstance(error, TransactionUndoneError), error
    assert (error.sqlstate, error.retry_after_seconds) == ("40P01", 1)
    assert "40P01" in str(error)
    assert "run it again" in str(error)
    assert "secret" not in str(error)
    await work(one, other, at_once=False)


async def test_a_load_that_waits_for_another_is_undone_whole(
    hasty: Database, tenants: TenantPair
) -> None:
    """Rows are sent without waiting for answers: what ends them is the same error."""
    (document, _), begun = await documents(hasty, tenants), asyncio.Barrier(2)

    async def work(position: int) -> int:
        async with hasty.tenant(tenants.a.id) as tx:
            await tx.execute(
                text(
                    "INSERT INTO knowledge_chunks (tenant_id, document_id, content, position)"
                    " VALUES (:tenant, :document, 'x', :position)"
                ),
                {"tenant": tx.tenant_id, "document": document, "position": position},
            )
            await begun.wait()
            chunks = [Chunk("secret", position=each) for each in range(100)]
            del chunks[position]
            return await load_chunks(tx, chunks, document_id=document)

    ended = await asyncio.gather(work(7), work(77), return_exceptions=True)
    undone = [each for each in ended if isinstance(each, TransactionUndoneError)]
    assert [each.sqlstate for each in undone] == ["40P01"], ended
    assert "secret" not in str(undone)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_what_has_no_order_can_run_again(
    db: Database, tenants: TenantPair, level: str
) -> None:
    """At a statement or at the commit, as the isolation level has it: the same error."""
    one, other = await widgets(db, tenants)
    changed = (one, one) if level == "REPEATABLE READ" else (one, other)
    begun = asyncio.Barrier(2)

    async def work(id_: UUID) -> None:
        async with db.tenant(tenants.a.id) as tx:
            _ = await tx.connection(execution_options={"isolation_level": level})
            await tx.scalars(select(Widget))
            await begun.wait()
            await rename(tx, id_)

    ended = await asyncio.gather(*map(work, changed), return_exceptions=True)
    (error,) = [each for each in ended if each is not None]
    assert isinstance(error, TransactionUndoneError), error
    assert error.sqlstate == "40001"


async def test_a_lock_that_is_not_free_in_time(db: Database, tenants: TenantPair) -> None:
    """What was done before in the transaction is undone with it, as the error says."""
    one, other = await widgets(db, tenants)
    async with db.tenant(tenants.a.id) as holding:
        await lock(holding, one)
        with pytest.raises(TransactionUndoneError, match="55P03") as caught:
            async with db.tenant(tenants.a.id) as tx:
                await rename(tx, other)
                await tx.execute(
                    select(Widget).where(Widget.id == one).with_for_update(nowait=True)
                )
    assert caught.value.sqlstate == "55P03"
    async with db.tenant(tenants.a.id) as tx:
        assert (await tx.get_one(Widget, other)).name == "other"


async def test_whoever_looks_up_has_nothing_to_run_again(
    urls: Urls, tenants: TenantPair, admin: asyncpg.Connection
) -> None:
    """A look-up is no transaction of the caller's: it gave no answer, and each of many is told."""
    await admin.execute(f'ALTER DATABASE "{urls.app.database}" SET lock_timeout = 50')
    async with Database.connect(settings=urls.settings) as db, admin.transaction():
        auth = Auth(db)
        await admin.execute("LOCK sessions IN ACCESS EXCLUSIVE MODE")
        calls = (auth.validate(make_token(tenants.a.id)[0]) for _ in range(20))
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in ended} == {DatabaseUnavailableError}, ended


def test_the_error_outlives_a_copy() -> None:
    """A queue's worker may send it to another process."""
    error = TransactionUndoneError("run it again", sqlstate="40001", retry_after_seconds=3)
    for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert isinstance(same, RetryLaterError)
        assert (str(same), vars(same)) == (str(error), vars(error))
