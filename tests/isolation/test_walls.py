"""Every way to cross from one tenant to another, for every table, as the application's role.

The tables come from the catalog: one that is added tomorrow is attacked tomorrow. A row for each is
made from its column types, and `VALUES` holds what check constraints ask for beyond that.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tenantry.schema import Base
from tenantry.schema.row_security import APP_ROLE
from tests.conftest import Server, bind, open_connection

Connection = asyncpg.Connection

TABLES = sorted(table.name for table in Base.metadata.tables.values())

BY_TYPE: dict[str, Any] = {
    "text": "x",
    "integer": 1,
    "bigint": 1,
    "numeric(20,10)": Decimal("0.5"),
    "jsonb": json.dumps({}),
    "bytea": b"\x01" * 32,
    "timestamp with time zone": datetime(2026, 1, 1, tzinfo=UTC),
    "vector(1024)": str([1.0] * 1024),
    "inet": None,
}
VALUES: dict[tuple[str, str], Any] = {
    ("users", "role"): "member",
    ("messages", "role"): "user",
    ("meetings", "status"): "active",
    ("sessions", "expires_at"): datetime(2027, 1, 1, tzinfo=UTC),
}


@dataclass
class Column:
    name: str
    type: str


@dataclass
class Table:
    """A table as the catalog has it, and the row of each tenant in it."""

    name: str
    columns: list[Column] = field(default_factory=list)
    foreign_keys: list[tuple[str, list[str], list[str]]] = field(default_factory=list)
    rows: dict[UUID, dict[str, Any]] = field(default_factory=dict)

    @property
    def tenant_column(self) -> str:
        return "id" if self.name == "tenants" else "tenant_id"

    @property
    def key(self) -> list[str]:
        return list(dict.fromkeys([self.tenant_column, "id"]))

    def insert(self, row: dict[str, Any]) -> tuple[str, list[Any]]:
        types = {column.name: column.type for column in self.columns}
        # Vectors and JSON are sent as text, so that a bare connection needs no codec.
        marks = [
            f"${i}::text::{types[name]}"
            if types[name].startswith(("vector", "jsonb"))
            else f"${i}::{types[name]}"
            for i, name in enumerate(row, 1)
        ]
        names = ", ".join(f'"{name}"' for name in row)
        return (
            f"INSERT INTO {self.name} ({names}) VALUES ({', '.join(marks)})",
            list(row.values()),
        )

    def where(self, row: dict[str, Any]) -> str:
        return " AND ".join(f"{name} = '{row[name]}'" for name in self.key)


@dataclass
class World:
    """A database in which tenants A and B have a row in every table."""

    app: Connection
    admin: Connection
    a: UUID
    b: UUID
    tables: dict[str, Table]

    def fresh_row(self, table: Table, tenant: UUID) -> dict[str, Any]:
        """A row like the tenant's own, with a new id."""
        row = dict(table.rows[tenant])
        if table.name == "tenants":
            return {**row, "id": uuid4(), "slug": uuid4().hex}
        row["id"] = uuid4().hex if table.name == "sessions" else uuid4()
        for name in ("email", "source"):
            if name in row:
                row[name] = f"{uuid4().hex}@x"
        if "position" in row:
            row["position"] = 2
        return row


async def read_tables(connection: Connection) -> dict[str, Table]:
    tables = {
        row["name"]: Table(row["name"])
        for row in await connection.fetch(
            "SELECT relname::text AS name FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        )
    }
    for row in await connection.fetch(
        "SELECT c.relname::text AS t, a.attname::text AS name,"
        " format_type(atttypid, atttypmod) AS type"
        " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " WHERE c.relname = ANY ($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        list(tables),
    ):
        tables[row["t"]].columns.append(Column(row["name"], row["type"]))
    for row in await connection.fetch(
        "SELECT conrelid::regclass::text AS t, confrelid::regclass::text AS parent,"
        " ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS k (n, o)"
        "   JOIN pg_attribute ON attrelid = conrelid AND attnum = n ORDER BY o) AS columns,"
        " ARRAY(SELECT attname::text FROM unnest(confkey) WITH ORDINALITY AS k (n, o)"
        "   JOIN pg_attribute ON attrelid = confrelid AND attnum = n ORDER BY o) AS referred"
        " FROM pg_constraint WHERE contype = 'f'"
    ):
        tables[row["t"]].foreign_keys.append((row["parent"], row["columns"], row["referred"]))
    return tables


def in_order(tables: dict[str, Table]) -> list[Table]:
    done: list[Table] = []
    while len(done) < len(tables):
        names = {table.name for table in done}
        ready = [
            table
            for table in tables.values()
            if table.name not in names and all(fk[0] in names for fk in table.foreign_keys)
        ]
        assert ready, "foreign keys form a circle"
        done += ready
    return done


async def populate(admin: Connection, tables: dict[str, Table], tenant: UUID) -> None:
    for table in in_order(tables):
        row: dict[str, Any] = {}
        for column in table.columns:
            if column.type == "uuid" or column.name == "id":
                row[column.name] = uuid4().hex if column.type == "text" else uuid4()
            else:
                row[column.name] = VALUES.get((table.name, column.name), BY_TYPE[column.type])
        row[table.tenant_column] = tenant
        for name in ("slug", "email", "source"):
            if name in row:
                row[name] = f"x@{tenant.hex}" if name == "email" else tenant.hex
        for parent, columns, referred in table.foreign_keys:
            for mine, theirs in zip(columns, referred, strict=True):
                row[mine] = tables[parent].rows[tenant][theirs]
        statement, values = table.insert(row)
        await admin.execute(statement, *values)
        table.rows[tenant] = row


@pytest.fixture(scope="module")
async def world(server: Server, template: str) -> AsyncIterator[World]:
    name = await server.create_database(template=template)
    admin = await open_connection(server.at(name))
    app = await open_connection(server.at(name, user=APP_ROLE))
    tables = await read_tables(admin)
    a, b = uuid4(), uuid4()
    for tenant in (a, b):
        await populate(admin, tables, tenant)
    yield World(app=app, admin=admin, a=a, b=b, tables=tables)
    await app.close()
    await admin.close()
    await server.drop_database(name)


@pytest.fixture
async def as_a(world: World) -> AsyncIterator[Connection]:
    """The application's connection in a transaction of tenant A, rolled back at the end."""
    transaction = world.app.transaction()
    await transaction.start()
    await bind(world.app, world.a)
    yield world.app
    await transaction.rollback()


@pytest.fixture
async def unbound(world: World) -> AsyncIterator[Connection]:
    """The application's connection in a transaction without a tenant."""
    transaction = world.app.transaction()
    await transaction.start()
    yield world.app
    await transaction.rollback()


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest, world: World) -> Table:
    return world.tables[request.param]


def count(status: str) -> int:
    return int(status.rsplit(" ", 1)[1])


def refused_by_row_security(error: asyncpg.PostgresError) -> bool:
    return error.sqlstate == "42501"


async def may(connection: Connection, table: Table, privilege: str) -> bool:
    return bool(
        await connection.fetchval("SELECT has_table_privilege($1, $2)", table.name, privilege)
    )


async def test_every_table_of_the_database_is_attacked(world: World) -> None:
    """A table that is in the database and not in these tests fails here."""
    assert sorted(world.tables) == TABLES
    assert all({world.a, world.b} == set(table.rows) for table in world.tables.values())


async def test_every_table_forces_row_security(world: World) -> None:
    """Row security is on and forced for each, with a policy for the application."""
    rows = await world.admin.fetch(
        "SELECT relname::text, relrowsecurity AND relforcerowsecurity AS walled,"
        " EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid) AS has_policy"
        " FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    assert all(row["walled"] and row["has_policy"] for row in rows)


# Without a tenant


async def test_without_a_tenant_nothing_is_read(unbound: Connection, table: Table) -> None:
    """No tenant, no rows."""
    assert await unbound.fetchval(f"SELECT count(*) FROM {table.name}") == 0


async def test_without_a_tenant_nothing_is_inserted(
    unbound: Connection, world: World, table: Table
) -> None:
    """No tenant, no new rows, not even for a tenant that exists."""
    statement, values = table.insert(world.fresh_row(table, world.a))
    with pytest.raises(asyncpg.PostgresError) as caught:
        await unbound.execute(statement, *values)
    assert refused_by_row_security(caught.value)


async def test_without_a_tenant_the_default_tenant_is_refused(
    unbound: Connection, world: World, table: Table
) -> None:
    """An INSERT that leaves the tenant to its default fails."""
    row = world.fresh_row(table, world.a)
    del row[table.tenant_column]
    statement, values = table.insert(row)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await unbound.execute(statement, *values)
    assert caught.value.sqlstate in {"42501", "23502"}


@pytest.mark.parametrize("verb", ["UPDATE", "DELETE"])
async def test_without_a_tenant_nothing_is_changed(
    unbound: Connection, table: Table, verb: str
) -> None:
    """No tenant: UPDATE and DELETE touch nothing, or are not allowed at all."""
    statement = (
        f"DELETE FROM {table.name}"
        if verb == "DELETE"
        else f"UPDATE {table.name} SET {changeable(table)}"
    )
    if table.name == "tenants" and verb == "DELETE":
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await unbound.execute(statement)
    else:
        assert count(await unbound.execute(statement)) == 0


# As tenant A, against B


def changeable(table: Table) -> str:
    """An assignment that the application may make in this table."""
    for name in ("name", "content", "room_name", "title", "user_agent", "provider", "ended_at"):
        if any(column.name == name for column in table.columns):
            return f"{name} = {name}"
    raise AssertionError(f"no column to change in {table.name}")


async def test_select_finds_only_own_rows(as_a: Connection, world: World, table: Table) -> None:
    """A sees its row and not B's, by key, by tenant or by looking at all."""
    found = await as_a.fetch(f"SELECT {table.tenant_column} AS t FROM {table.name}")
    assert [row["t"] for row in found] == [world.a]
    theirs = table.where(table.rows[world.b])
    assert await as_a.fetch(f"SELECT FROM {table.name} WHERE {theirs}") == []


async def test_insert_for_another_tenant_is_refused(
    as_a: Connection, world: World, table: Table
) -> None:
    """A cannot make a row of B's."""
    statement, values = table.insert(world.fresh_row(table, world.b))
    with pytest.raises(asyncpg.PostgresError) as caught:
        await as_a.execute(statement, *values)
    assert refused_by_row_security(caught.value)


@pytest.mark.parametrize("verb", ["UPDATE", "DELETE"])
async def test_rows_of_another_tenant_are_not_changed(
    as_a: Connection, world: World, table: Table, verb: str
) -> None:
    """UPDATE and DELETE by B's key touch nothing; so do those without a condition, but A's own."""
    theirs = table.where(table.rows[world.b])
    if verb == "DELETE" and not await may(as_a, table, "DELETE"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_a.execute(f"DELETE FROM {table.name} WHERE {theirs}")
        return
    head = (
        f"DELETE FROM {table.name}"
        if verb == "DELETE"
        else f"UPDATE {table.name} SET {changeable(table)}"
    )
    assert count(await as_a.execute(f"{head} WHERE {theirs}")) == 0
    assert count(await as_a.execute(head)) == 1


async def test_a_row_cannot_be_moved_to_another_tenant(
    as_a: Connection, world: World, table: Table
) -> None:
    """UPDATE of the tenant is refused, for own rows; B's are not found."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await as_a.execute(f"UPDATE {table.name} SET {table.tenant_column} = '{world.b}'")
    assert refused_by_row_security(caught.value)


async def test_merge_cannot_reach_another_tenant(
    as_a: Connection, world: World, table: Table
) -> None:
    """MERGE on B's key matches nothing, and its INSERT for B is refused."""
    theirs = " AND ".join(f"t.{name} = '{table.rows[world.b][name]}'" for name in table.key)
    head = f"MERGE INTO {table.name} AS t USING (SELECT 1) AS s ON {theirs}"
    if await may(as_a, table, "DELETE"):
        assert count(await as_a.execute(f"{head} WHEN MATCHED THEN DELETE")) == 0
    update = f"{head} WHEN MATCHED THEN UPDATE SET {changeable(table)}"
    assert count(await as_a.execute(update)) == 0
    row = world.fresh_row(table, world.b)
    statement, values = table.insert(row)
    columns_and_values = statement.removeprefix(f"INSERT INTO {table.name} ")
    with pytest.raises(asyncpg.PostgresError) as caught:
        await as_a.execute(f"{head} WHEN NOT MATCHED THEN INSERT {columns_and_values}", *values)
    assert refused_by_row_security(caught.value)


async def test_upsert_cannot_reach_another_tenant(
    as_a: Connection, world: World, table: Table
) -> None:
    """ON CONFLICT on B's key changes nothing of B's, and does not tell that it exists."""
    errors = []
    for row in (table.rows[world.b], world.fresh_row(table, world.b)):
        statement, values = table.insert(row)
        savepoint = as_a.transaction()
        await savepoint.start()
        with pytest.raises(asyncpg.PostgresError) as caught:
            await as_a.execute(
                f"{statement} ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET id = excluded.id",
                *values,
            )
        await savepoint.rollback()
        errors.append((caught.value.sqlstate, str(caught.value)))
    assert errors[0] == errors[1]
    assert errors[0][0] == "42501"


async def test_copy_to_gives_only_own_rows(as_a: Connection, world: World, table: Table) -> None:
    """COPY … TO is under row security like SELECT."""
    out = io.BytesIO()
    await as_a.copy_from_query(f"SELECT {table.tenant_column} FROM {table.name}", output=out)
    assert out.getvalue().decode().split() == [str(world.a)]
    whole = io.BytesIO()
    await as_a.copy_from_table(table.name, columns=[table.tenant_column], output=whole)
    assert whole.getvalue().decode().split() == [str(world.a)]


async def test_copy_from_is_refused(as_a: Connection, world: World, table: Table) -> None:
    """COPY … FROM cannot be checked by row security, so PostgreSQL does not let it run."""
    with pytest.raises((asyncpg.FeatureNotSupportedError, asyncpg.InsufficientPrivilegeError)):
        await as_a.copy_records_to_table(
            table.name, columns=[table.tenant_column], records=[(world.b,)]
        )


async def test_foreign_keys_cannot_point_at_another_tenant(
    as_a: Connection, world: World, table: Table
) -> None:
    """A's row cannot refer to B's, and the answer is the one for a row that exists nowhere."""
    own_keys = [fk for fk in table.foreign_keys if len(fk[1]) > 1]
    for parent, columns, referred in own_keys:
        assert columns[0] == referred[0] == "tenant_id", f"a key of {table.name} lacks the tenant"
        errors = []
        for target in (world.tables[parent].rows[world.b]["id"], None):
            row = world.fresh_row(table, world.a)
            row[columns[1]] = target or (uuid4() if isinstance(row[columns[1]], UUID) else "none")
            statement, values = table.insert(row)
            savepoint = as_a.transaction()
            await savepoint.start()
            with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
                await as_a.execute(statement, *values)
            await savepoint.rollback()
            errors.append((caught.value.sqlstate, caught.value.constraint_name, str(caught.value)))
        assert errors[0] == errors[1]


async def test_truncate_is_refused(as_a: Connection, table: Table) -> None:
    """TRUNCATE would pass by row security, so the application does not have it."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_a.execute(f"TRUNCATE {table.name} CASCADE")


async def test_locks_do_not_reach_rows_of_another_tenant(
    as_a: Connection, world: World, table: Table
) -> None:
    """SELECT … FOR UPDATE of B's row locks nothing, and LOCK TABLE shows no more than before."""
    theirs = table.where(table.rows[world.b])
    assert await as_a.fetch(f"SELECT FROM {table.name} WHERE {theirs} FOR UPDATE") == []
    async with world.admin.transaction():
        found = await world.admin.fetch(
            f"SELECT FROM {table.name} WHERE {theirs} FOR UPDATE NOWAIT"
        )
        assert len(found) == 1
    if await may(as_a, table, "UPDATE"):
        await as_a.execute(f"LOCK TABLE {table.name} IN ROW SHARE MODE")
    else:
        savepoint = as_a.transaction()
        await savepoint.start()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_a.execute(f"LOCK TABLE {table.name} IN ACCESS EXCLUSIVE MODE")
        await savepoint.rollback()
    assert await as_a.fetchval(f"SELECT count(*) FROM {table.name}") == 1


async def test_the_application_makes_nothing(as_a: Connection, table: Table) -> None:
    """No triggers, rules, policies or columns; no way to switch row security off."""
    for statement in (
        f"ALTER TABLE {table.name} DISABLE ROW LEVEL SECURITY",
        f"CREATE POLICY p ON {table.name} USING (true)",
        f"CREATE TABLE {table.name}_copy (LIKE {table.name})",
        f"CREATE TEMP TABLE {table.name} (LIKE {table.name})",
        f"CREATE TRIGGER t BEFORE INSERT ON {table.name}"
        " EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
        f"CREATE TABLE spy (id uuid, tenant_id uuid REFERENCES {table.name})",
        "CREATE SCHEMA spy",
        "CREATE FUNCTION tenantry.current_tenant(int) RETURNS uuid LANGUAGE sql RETURN null",
    ):
        savepoint = as_a.transaction()
        await savepoint.start()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_a.execute(statement)
        await savepoint.rollback()
