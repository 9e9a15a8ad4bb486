"""A machine that does to a database what many sessions of three tenants could do, in any order.

It keeps a model in memory: what each tenant has committed, and what each open session would see.
After every step each tenant has to see exactly its model's rows, and the operator all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import pytest
from hypothesis import seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSessionTransaction

from tenantry import Database, TenantSession
from tenantry.errors import CrossTenantError
from tenantry.schema import Widget

T = TypeVar("T")
Rows = dict[UUID, str]

TENANTS = [UUID(int=0x7E4A0000 + n) for n in range(3)]
# The same for all tenants, so that the id alone never tells whose row it is.
KEYS = [UUID(int=n) for n in range(1, 6)]

# What is cancelled; the empty one is a commit. Not longer, because PostgreSQL does not hear a
# cancellation that comes before the statement.
SLOW = [
    "SELECT pg_sleep(0.02)",
    "UPDATE widgets SET name = 'lost' WHERE pg_sleep(0.02) IS NOT NULL",
    "",
]

tenants = st.sampled_from(TENANTS)
keys = st.sampled_from(KEYS)
names = st.sampled_from(["ada", "bob", "cleo", "dan"])


@dataclass
class Opened:
    """A session in its block, and what it must see."""

    tx: TenantSession
    leave: Callable[..., Awaitable[Any]]
    rows: Rows
    savepoints: list[tuple[AsyncSessionTransaction, Rows]] = field(default_factory=list)


@dataclass
class Bench:
    """What the machine works on: one event loop, one database, and those who look on."""

    loop: asyncio.AbstractEventLoop
    db: Database
    admin: asyncpg.Connection
    operator: asyncpg.Connection
    watchers: dict[UUID, asyncpg.Connection]
    steps: int = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))


class Tenants(RuleBasedStateMachine):
    """See the module."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.committed: dict[UUID, Rows] = {tenant: {} for tenant in TENANTS}
        self.open: dict[UUID, Opened] = {}
        # Whose session the step was made in; None after the end of one, when all are looked at.
        self.touched: UUID | None = None

    def teardown(self) -> None:
        async def work() -> None:
            for tenant in list(self.open):
                await self._leave(tenant, ZeroDivisionError())
            await self.bench.admin.execute("DELETE FROM widgets")

        self.bench.run(work())

    async def _session(self, tenant: UUID) -> Opened:
        if tenant not in self.open:
            block = self.bench.db.tenant(tenant)
            tx = await block.__aenter__()
            self.open[tenant] = Opened(tx, block.__aexit__, dict(self.committed[tenant]))
        return self.open[tenant]

    async def _leave(self, tenant: UUID, error: BaseException | None = None) -> None:
        opened = self.open.pop(tenant)
        self.touched = None
        if error is None:
            await opened.leave(None, None, None)
        else:
            await opened.leave(type(error), error, None)

    def _step(self, tenant: UUID, work: Callable[[Opened], Awaitable[None]]) -> None:
        async def run() -> None:
            opened = await self._session(tenant)
            # Statements by hand change rows behind the identity map; it is not what is tested.
            opened.tx.expunge_all()
            await work(opened)
            await opened.tx.flush()

        self.bench.steps += 1
        self.touched = tenant
        self.bench.run(run())

    @initialize(rows=st.lists(st.tuples(tenants, keys, names), min_size=6, max_size=9))
    def begin_with(self, rows: list[tuple[UUID, UUID, str]]) -> None:
        async def work() -> None:
            for tenant, key, name in rows:
                self.committed[tenant][key] = name
            filled = [(t, *row) for t, rows in self.committed.items() for row in rows.items()]
            await self.bench.admin.executemany("INSERT INTO widgets VALUES ($1, $2, $3)", filled)

        self.bench.run(work())

    # One row

    @rule(tenant=tenants, key=keys, name=names)
    def create(self, tenant: UUID, key: UUID, name: str) -> None:
        async def work(at: Opened) -> None:
            if key in at.rows:
                with pytest.raises(IntegrityError):
                    async with at.tx.begin_nested():
                        await at.tx.execute(insert(Widget).values(id=key, name=name))
                return
            at.tx.add(Widget(id=key, name=name))
            at.rows[key] = name

        self._step(tenant, work)

    @rule(tenant=tenants, key=keys)
    def read(self, tenant: UUID, key: UUID) -> None:
        async def work(at: Opened) -> None:
            found = await at.tx.get(Widget, key)
            assert (found.name if found else None) == at.rows.get(key)
            assert found is None or found.tenant_id == tenant

        self._step(tenant, work)

    @rule(tenant=tenants, key=keys, name=names)
    def change(self, tenant: UUID, key: UUID, name: str) -> None:
        async def work(at: Opened) -> None:
            found = await at.tx.get(Widget, key)
            if found:
                found.name = name
                at.rows[key] = name

        self._step(tenant, work)

    @rule(tenant=tenants, key=keys)
    def remove(self, tenant: UUID, key: UUID) -> None:
        async def work(at: Opened) -> None:
            found = await at.tx.get(Widget, key)
            assert (found is None) is (at.rows.pop(key, None) is None)
            if found:
                await at.tx.delete(found)

        self._step(tenant, work)

    @rule(tenant=tenants, key=keys, name=names)
    def upsert(self, tenant: UUID, key: UUID, name: str) -> None:
        async def work(at: Opened) -> None:
            new = postgresql.insert(Widget).values(id=key, name=name)
            await at.tx.execute(
                new.on_conflict_do_update(
                    index_elements=["tenant_id", "id"], set_={"name": new.excluded.name}
                )
            )
            at.rows[key] = name

        self._step(tenant, work)

    # Many rows

    @rule(
        tenant=tenants,
        old=names,
        name=names,
        synchronize=st.sampled_from(["auto", "evaluate", "fetch", False]),
    )
    def change_many(self, tenant: UUID, old: str, name: str, synchronize: Any) -> None:
        async def work(at: Opened) -> None:
            await at.tx.scalars(select(Widget))
            statement = update(Widget).where(Widget.name == old).values(name=name)
            await at.tx.execute(statement, execution_options={"synchronize_session": synchronize})
            at.rows |= {key: name for key, is_ in at.rows.items() if is_ == old}

        self._step(tenant, work)

    @rule(tenant=tenants, old=names)
    def remove_many(self, tenant: UUID, old: str) -> None:
        async def work(at: Opened) -> None:
            gone = await at.tx.scalars(
                delete(Widget).where(Widget.name == old).returning(Widget.id)
            )
            expected = {key for key, is_ in at.rows.items() if is_ == old}
            assert set(gone) == expected
            for key in expected:
                del at.rows[key]

        self._step(tenant, work)

    @rule(tenant=tenants, name=names)
    def change_all_by_hand(self, tenant: UUID, name: str) -> None:
        async def work(at: Opened) -> None:
            by_hand = text("UPDATE widgets SET name = :name")
            done = await at.tx.execute(by_hand, {"name": name})
            assert done.rowcount == len(at.rows)  # type: ignore[attr-defined]
            at.rows |= dict.fromkeys(at.rows, name)

        self._step(tenant, work)

    @rule(tenant=tenants, keep=st.sampled_from([True, True, True, False]))
    def remove_all_by_hand(self, tenant: UUID, keep: bool) -> None:
        async def work(at: Opened) -> None:
            savepoint = await at.tx.begin_nested()
            done = await at.tx.execute(text("DELETE FROM widgets"))
            assert done.rowcount == len(at.rows)  # type: ignore[attr-defined]
            if keep:
                await savepoint.rollback()
            else:
                await savepoint.commit()
                at.rows.clear()

        self._step(tenant, work)

    # Reaching for another's

    @rule(tenant=tenants, other=tenants, key=keys)
    def read_anothers(self, tenant: UUID, other: UUID, key: UUID) -> None:
        async def work(at: Opened) -> None:
            found = await at.tx.get(Widget, (other, key))
            by_hand = await at.tx.scalar(
                text("SELECT name FROM widgets WHERE (tenant_id, id) = (:t, :id)"),
                {"t": other, "id": key},
            )
            expected = at.rows.get(key) if other == tenant else None
            assert (found.name if found else None) == by_hand == expected

        self._step(tenant, work)

    @rule(tenant=tenants, other=tenants, key=keys, name=names)
    def write_anothers(self, tenant: UUID, other: UUID, key: UUID, name: str) -> None:
        statements = (
            "INSERT INTO widgets (tenant_id, id, name) VALUES (:other, :id, :name)",
            "UPDATE widgets SET tenant_id = :other, name = :name WHERE id = :id",
        )

        async def work(at: Opened) -> None:
            if other == tenant:
                return
            for statement in statements if key in at.rows else statements[:1]:
                with pytest.raises(CrossTenantError):
                    async with at.tx.begin_nested():
                        await at.tx.execute(
                            text(statement), {"other": other, "id": key, "name": name}
                        )
            for statement in ("UPDATE widgets SET name = :name", "DELETE FROM widgets"):
                done = await at.tx.execute(
                    text(f"{statement} WHERE tenant_id = :other"),
                    {"other": other} | ({"name": name} if ":name" in statement else {}),
                )
                assert done.rowcount == 0  # type: ignore[attr-defined]

        self._step(tenant, work)

    # Transactions

    @rule(tenant=tenants)
    def savepoint(self, tenant: UUID) -> None:
        async def work(at: Opened) -> None:
            at.savepoints.append((await at.tx.begin_nested(), dict(at.rows)))

        self._step(tenant, work)

    @precondition(lambda self: any(at.savepoints for at in self.open.values()))
    @rule(back=st.booleans())
    def end_savepoint(self, back: bool) -> None:
        tenant = next(t for t, at in self.open.items() if at.savepoints)

        async def work(at: Opened) -> None:
            nested, before = at.savepoints.pop()
            if back:
                await nested.rollback()
                at.rows = before
            else:
                await nested.commit()

        self._step(tenant, work)

    @rule(tenant=tenants)
    def commit(self, tenant: UUID) -> None:
        async def work(at: Opened) -> None:
            at.savepoints.clear()
            self.committed[tenant] = dict(at.rows)
            await at.tx.commit()

        self._step(tenant, work)
        self.touched = None

    @rule(tenant=tenants)
    def roll_back(self, tenant: UUID) -> None:
        async def work(at: Opened) -> None:
            at.savepoints.clear()
            at.rows = dict(self.committed[tenant])
            await at.tx.rollback()

        self._step(tenant, work)
        self.touched = None

    @precondition(lambda self: self.open)
    @rule(data=st.data(), well=st.sampled_from([True, True, False]))
    def leave(self, data: st.DataObject, well: bool) -> None:
        tenant = data.draw(st.sampled_from(sorted(self.open)))
        if well:
            self.committed[tenant] = dict(self.open[tenant].rows)
        self.bench.steps += 1
        self.bench.run(self._leave(tenant, None if well else ZeroDivisionError()))

    @rule(tenant=tenants, turns=st.integers(0, 12), what=st.sampled_from(SLOW))
    def cancel(self, tenant: UUID, turns: int, what: str) -> None:
        async def work() -> None:
            at = await self._session(tenant)
            await cancelled(at.tx.execute(text(what)) if what else at.tx.commit(), turns)
            await self._leave(tenant, asyncio.CancelledError())
            # A commit was in time or it was not; nothing in between.
            found = await self.bench.watchers[tenant].fetch("SELECT id, name FROM widgets")
            now = {row["id"]: row["name"] for row in found}
            assert now in ((self.committed[tenant],) if what else (self.committed[tenant], at.rows))
            self.committed[tenant] = now

        self.bench.steps += 1
        self.bench.run(work())

    # What must hold

    @invariant()
    def tenants_see_their_rows_and_the_operator_all(self) -> None:
        self.bench.run(self._look())

    async def _look(self) -> None:
        query = "SELECT tenant_id, id, name FROM widgets"
        everything = {
            (t, key): name for t, rows in self.committed.items() for key, name in rows.items()
        }
        onlookers = (self.bench.operator, *self.bench.watchers.values())
        all_rows, *found = await asyncio.gather(*(each.fetch(query) for each in onlookers))
        assert as_dict(all_rows) == everything
        for tenant, seen in zip(self.bench.watchers, found, strict=True):
            committed = self.committed[tenant].items()
            assert as_dict(seen) == {(tenant, key): name for key, name in committed}
        for tenant, at in self.open.items():
            if at.tx.in_transaction() and (self.touched in {tenant, None}):
                rows = (await at.tx.execute(text(query))).all()
                assert {(t, key): name for t, key, name in rows} == {
                    (tenant, key): name for key, name in at.rows.items()
                }


def on(bench: Bench, *, number: int = 0) -> type[Tenants]:
    """The machine, for this bench; another number, other steps, the same every time."""

    class OnBench(Tenants):
        pass

    OnBench.bench = bench
    return seed(number)(OnBench)


def as_dict(rows: list[asyncpg.Record]) -> dict[tuple[UUID, UUID], str]:
    return {(row["tenant_id"], row["id"]): row["name"] for row in rows}


async def cancelled(work: Coroutine[Any, Any, Any], turns: int) -> None:
    """Begin something, and cancel it after some turns of the event loop."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0.0005 if turns > 8 else 0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
