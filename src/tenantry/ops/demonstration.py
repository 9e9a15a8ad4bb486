"""The walls, tried: what each tenant sees, and six ways to cross, with the database's answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import URL

from tenantry.schema import Base
from tenantry.schema.row_security import row_security_of
from tenantry.tenancy.catalog import quote
from tenantry.tenancy.connecting import connect

__all__ = ["Attempt", "count_rows", "try_to_cross"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to reach another tenant.

    Args:
        title: What is tried, in a few words.
        statement: The SQL that was sent.
        answer: What PostgreSQL said.
        held: Whether the wall stood.
    """

    title: str
    statement: str
    answer: str
    held: bool


async def count_rows(url: URL, tenants: list[UUID]) -> dict[str, list[int]]:
    """Return, by table, how many rows each tenant sees with ``SELECT count(*)`` and no condition.

    Args:
        url: Connects as the application's role.
        tenants: Bound one after the other.
    """
    tables = [table.name for table in Base.metadata.sorted_tables if row_security_of(table)]
    counts: dict[str, list[int]] = {table: [] for table in tables}
    connection = await connect(url)
    try:
        for tenant in tenants:
            async with connection.transaction(readonly=True):
                await _bind(connection, tenant)
                for table in tables:
                    found = await connection.fetchval(f"SELECT count(*) FROM {quote(table)}")
                    counts[table].append(found)
    finally:
        await connection.close()
    return counts


async def try_to_cross(url: URL, *, tenant: UUID, other: UUID, conversation: UUID) -> list[Attempt]:
    """Try six ways from ``tenant`` to ``other``, each in a transaction that is rolled back.

    Args:
        url: Connects as the application's role.
        tenant: Who tries.
        other: Whose rows are tried.
        conversation: A conversation of ``other``.
    """
    connection = await connect(url)
    crossing = _Crossing(connection, tenant, other, conversation)
    try:
        return [
            await attempt()
            for attempt in (
                crossing.read,
                crossing.write,
                crossing.move,
                crossing.refer,
                crossing.probe,
                crossing.forget,
            )
        ]
    finally:
        await connection.close()


async def _bind(connection: asyncpg.Connection, tenant: UUID) -> None:
    await connection.execute(f"SET LOCAL tenantry.tenant_id = '{tenant}'")


@dataclass(frozen=True, slots=True)
class _Crossing:
    connection: asyncpg.Connection
    tenant: UUID
    other: UUID
    conversation: UUID

    async def read(self) -> Attempt:
        sql = f"SELECT * FROM widgets WHERE tenant_id = '{self.other}'"
        return await self._expect_no_rows("read the other's rows", sql)

    async def write(self) -> Attempt:
        sql = f"INSERT INTO widgets (tenant_id, name) VALUES ('{self.other}', 'x')"
        return await self._expect_refusal("write a row for the other", sql, "42501")

    async def move(self) -> Attempt:
        sql = f"UPDATE widgets SET tenant_id = '{self.other}'"
        return await self._expect_refusal("move a row to the other", sql, "42501")

    async def refer(self) -> Attempt:
        sql = self._message_in(self.conversation)
        return await self._expect_refusal("refer to the other's row", sql, "23503")

    async def probe(self) -> Attempt:
        there = await self._answer(self._message_in(self.conversation))
        nowhere = await self._answer(self._message_in(uuid4()))
        same = there == nowhere and there.startswith("23503")
        answer = "the same as for an id that exists nowhere" if same else there
        return Attempt("probe for the other's row", "the same, with a made-up id", answer, same)

    async def forget(self) -> Attempt:
        sql = "SELECT * FROM widgets"
        return await self._expect_no_rows("forget the tenant", sql, bind=False)

    def _message_in(self, conversation: UUID) -> str:
        return (
            "INSERT INTO messages (session_id, role, content)"
            f" VALUES ('{conversation}', 'user', 'x')"
        )

    async def _expect_no_rows(self, title: str, sql: str, *, bind: bool = True) -> Attempt:
        rows: list[object] = []

        async def run() -> None:
            rows.extend(await self.connection.fetch(sql))

        error = await self._rolled_back(run, bind=bind)
        return Attempt(title, sql, error or f"{len(rows)} rows", not rows and not error)

    async def _expect_refusal(self, title: str, sql: str, state: str) -> Attempt:
        answer = await self._answer(sql)
        return Attempt(title, sql, answer, answer.startswith(state))

    async def _answer(self, sql: str) -> str:
        async def run() -> None:
            await self.connection.execute(sql)

        return await self._rolled_back(run) or "it went through"

    async def _rolled_back(self, run: Callable[[], Awaitable[None]], *, bind: bool = True) -> str:
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            if bind:
                await _bind(self.connection, self.tenant)
            await run()
        except asyncpg.PostgresError as error:
            return f"{error.sqlstate} {error.args[0]}"
        finally:
            await transaction.rollback()
        return ""
