"""An attack: a way to cross from one tenant to another by way of one table, whichever it is.

An attack is an async function of the application's connection, a `World` and one of its tables. It
runs in a transaction that is rolled back, bound to tenant A or to none, and returns when the wall
held. Its docstring is the promise. ``down`` is the SQL that takes its wall down, for the proof that
the attack would notice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from tenantry.tenancy.catalog import quote
from tests.conftest import bind
from tests.isolation.rows import Table, World

Connection = asyncpg.Connection
Run = Callable[[Connection, World, Table], Awaitable[None]]
Down = Callable[[World, Table], list[str]]


@dataclass(frozen=True)
class Attack:
    """One attack, and what has to fall for it to succeed."""

    name: str
    run: Run
    down: Down
    bound: bool = True

    async def __call__(self, world: World, table: Table) -> None:
        """Try it, and fail if it succeeds."""
        transaction = world.app.transaction()
        await transaction.start()
        try:
            if self.bound:
                await bind(world.app, world.a)
            await self.run(world.app, world, table)
        finally:
            await transaction.rollback()


ATTACKS: dict[str, Attack] = {}


def attack(*, down: Down, bound: bool = True) -> Callable[[Run], Run]:
    """Register an attack under its function's name."""

    def register(run: Run) -> Run:
        name = getattr(run, "__name__", "")
        ATTACKS[name] = Attack(name, run, down, bound)
        return run

    return register


def open_policy(world: World, table: Table) -> list[str]:
    return [f"ALTER POLICY tenant_isolation ON {table.sql} USING (true) WITH CHECK (true)"]


def no_row_security(world: World, table: Table) -> list[str]:
    return [f"ALTER TABLE {table.sql} DISABLE ROW LEVEL SECURITY"]


def default_tenant(world: World, table: Table) -> list[str]:
    default = f"ALTER {table.tenant_column} SET DEFAULT '{world.a}'"
    return [*open_policy(world, table), f"ALTER TABLE {table.sql} {default}"]


def count(status: str) -> int:
    return int(status.rsplit(" ", 1)[1])


async def may(connection: Connection, table: Table, privilege: str) -> bool:
    return bool(
        await connection.fetchval("SELECT has_table_privilege($1, $2)", table.sql, privilege)
    )


def changeable(table: Table) -> str:
    """An assignment that changes nothing, and that the application may make if it may make any."""
    fixed = {table.tenant_column, *table.key, *(c for k in table.foreign_keys for c in k.columns)}
    free = [c.name for c in table.columns.values() if c.name not in fixed and not c.generated]
    allowed = [name for name in free if name in table.updatable] or free
    return f"{quote(allowed[0])} = {quote(allowed[0])}"


async def changes(connection: Connection, table: Table, statement: str, rows: int) -> None:
    """The statement touches so many rows, or is refused in a table that is never changed."""
    told = await answer(connection, statement)
    if table.updatable:
        assert told[0].rsplit(" ", 1)[-1] == str(rows), told
    else:
        assert told[0] == "42501", told


async def answer(connection: Connection, statement: str, *values: object) -> tuple[str, ...]:
    """What a statement says, in a savepoint that is rolled back: its status, or its error."""
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        return (await connection.execute(statement, *values),)
    except asyncpg.PostgresError as error:
        return (str(error.sqlstate), str(error.constraint_name), str(error))
    finally:
        await savepoint.rollback()


async def refuses(connection: Connection, statement: str, *values: object) -> None:
    """Row security, or a missing privilege, refuses the statement."""
    told = await answer(connection, statement, *values)
    assert told[0] == "42501", f"{statement}: {told}"
