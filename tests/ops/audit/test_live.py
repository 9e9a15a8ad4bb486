"""The live part of the audit on tenantry's own tables: whole, and with each wall taken down."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg
import pytest
from sqlalchemy import URL
from sqlalchemy.pool import NullPool

from tenantry.errors import ConfigurationError
from tenantry.ops.audit.live import try_crossings
from tenantry.ops.audit.report import OPERATIONS, Attempt, Finding
from tenantry.ops.audit.scope import Scope
from tenantry.schema import Base
from tenantry.tenancy.connecting import create_engine
from tests.conftest import Connect, TenantPair, Urls

pytestmark = pytest.mark.untraced

OURS = [f"public.{name}" for name in sorted(Base.metadata.tables)]
TRIED = [each for each in OPERATIONS if each != "catalog"]
CHANGES = {"update", "delete"}
ALL = {"read", "insert", "update", "delete", "move", "no tenant"}

Cells = dict[tuple[str, str], Attempt]


async def attack(url: URL, *tables: str, scope: Scope | None = None) -> tuple[Cells, list[Finding]]:
    """Try everything on ``tables``, by default our own; the attempts by table and operation."""
    engine = create_engine(url, pool_class=NullPool)
    try:
        async with engine.connect() as connection:
            attempts, findings = await try_crossings(connection, scope or Scope(), tables or OURS)
            assert not connection.in_transaction()
            raw = (await connection.get_raw_connection()).driver_connection
            assert isinstance(raw, asyncpg.Connection)
            assert not raw.is_in_transaction()
            held = await raw.fetchval(
                "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()"
                " AND relation <> 'pg_locks'::regclass AND relation >= 16384"
            )
            assert held == 0
    finally:
        await engine.dispose()
    return {(each.table, each.operation): each for each in attempts}, findings


def crossed(cells: Cells) -> set[tuple[str, str]]:
    """The cells that were crossed."""
    return {cell for cell, each in cells.items() if each.outcome == "crossed"}


async def content(connection: asyncpg.Connection) -> dict[str, object]:
    """Everything that a dump would hold, as digests, and the state of every sequence."""
    found: dict[str, object] = {}
    tables = await connection.fetch(
        "SELECT c.oid::regclass::text AS name, relkind FROM pg_class c"
        " WHERE relkind IN ('r', 'S') AND oid >= 16384"
    )
    for table in tables:
        name = table["name"]
        if table["relkind"] == b"S":
            state = await connection.fetchrow(f"SELECT last_value, is_called FROM {name}")
            found[name] = state and tuple(state)
        else:
            found[name] = await connection.fetchval(
                f"SELECT coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {name} t"
            )
    found["roles"] = await connection.fetchval(
        "SELECT string_agg(m::text, '|' ORDER BY m::text) FROM pg_auth_members m"
    )
    return found


async def test_a_fresh_database_keeps_every_tenant_apart(urls: Urls) -> None:
    """On a migrated database every operation on every table is tried, and none crosses."""
    cells, findings = await attack(urls.admin)
    assert findings == []
    assert {each.outcome for each in cells.values()} == {"kept apart"}
    assert list(cells) == [(table, operation) for table in OURS for operation in TRIED]


async def test_nothing_is_left_behind(
    urls: Urls, admin: asyncpg.Connection, tenants: TenantPair
) -> None:
    """No row, no lock, no sequence moved: not with rows of others in the tables either."""
    await admin.execute(
        f"INSERT INTO widgets (tenant_id, name) SELECT '{tenants.a.id}', 'w' || n"
        " FROM generate_series(1, 500) n"
    )
    before = await content(admin)
    _, findings = await attack(urls.admin)
    assert findings == []
    assert await content(admin) == before


@dataclass(frozen=True)
class Wall:
    """A wall that is taken down, and the cells that are then crossed."""

    sql: str
    expected: set[str]
    table: str = "widgets"
    also: str | None = None
    """Another table that it opens."""


def _policy(command: str, clause: str, table: str = "widgets") -> str:
    return f"CREATE POLICY wide ON {table} FOR {command} TO tenantry_app {clause}"


WALLS = {
    "row security off": Wall("ALTER TABLE widgets DISABLE ROW LEVEL SECURITY", ALL),
    "USING and CHECK true": Wall(
        "ALTER POLICY tenant_isolation ON widgets USING (true) WITH CHECK (true)", ALL
    ),
    "USING true": Wall(
        "ALTER POLICY tenant_isolation ON widgets USING (true)",
        {"read", "update", "delete", "no tenant"},
    ),
    "WITH CHECK true": Wall(
        "ALTER POLICY tenant_isolation ON widgets WITH CHECK (true)",
        {"insert", "move", "no tenant"},
    ),
    "open to read": Wall(_policy("SELECT", "USING (true)"), {"read", "no tenant"}),
    "open to update": Wall(
        _policy("UPDATE", "USING (true) WITH CHECK (true)"), {"update", "no tenant"}
    ),
    "open to update, checked": Wall(
        _policy("UPDATE", "USING (true) WITH CHECK (tenant_id = tenantry.current_tenant())"),
        {"update", "no tenant"},
    ),
    "open to delete": Wall(_policy("DELETE", "USING (true)"), {"delete", "no tenant"}),
    "open to insert": Wall(_policy("INSERT", "WITH CHECK (true)"), {"insert", "no tenant"}),
    "open without a tenant": Wall(
        _policy("ALL", "USING (tenantry.current_tenant() IS NULL)"), {"no tenant"}
    ),
    "open where the setting was never made": Wall(
        _policy("ALL", "USING (current_setting('tenantry.tenant_id', true) IS NULL)"),
        {"no tenant"},
    ),
    "open where the setting is empty": Wall(
        _policy("ALL", "USING (current_setting('tenantry.tenant_id', true) = '')"),
        {"no tenant"},
    ),
    "open to read without a tenant": Wall(
        _policy("SELECT", "USING (tenantry.current_tenant() IS NULL)"), {"no tenant"}
    ),
    "open to everybody": Wall(
        "CREATE POLICY wide ON messages TO PUBLIC USING (true)", ALL, "messages"
    ),
    "tenants open": Wall(
        "ALTER POLICY tenant_isolation ON tenants USING (true)",
        {"read", "update", "no tenant"},
        "tenants",
    ),
    "a key of the id alone": Wall(
        "CREATE UNIQUE INDEX one ON meetings (id)", {"probe"}, "meetings"
    ),
    "a primary key of the id alone": Wall(
        "ALTER TABLE cost_events DROP CONSTRAINT cost_events_pkey;"
        " ALTER TABLE cost_events ADD PRIMARY KEY (id)",
        {"probe"},
        "cost_events",
    ),
    "unique over all tenants": Wall(
        "ALTER TABLE users ADD CONSTRAINT one_email UNIQUE (email)", {"probe"}, "users"
    ),
    "unique by an expression": Wall(
        "CREATE UNIQUE INDEX one_name ON widgets (lower(name))", {"probe"}
    ),
    "unique with a condition": Wall(
        "CREATE UNIQUE INDEX one_name ON widgets (name) WHERE id IS NOT NULL", {"probe"}
    ),
    "excluded over all tenants": Wall(
        "ALTER TABLE widgets ADD CONSTRAINT apart EXCLUDE USING btree (name WITH =)", {"probe"}
    ),
    "unique, deferred": Wall(
        "ALTER TABLE widgets ADD CONSTRAINT late UNIQUE (name) DEFERRABLE INITIALLY DEFERRED",
        {"probe"},
    ),
    "a foreign key without the tenant": Wall(
        "ALTER TABLE meetings ADD UNIQUE (id);"
        " ALTER TABLE messages ADD meeting_id uuid,"
        " ADD CONSTRAINT loose FOREIGN KEY (meeting_id) REFERENCES meetings (id)"
        " ON DELETE SET NULL",
        {"probe"},
        "messages",
        also="meetings",
    ),
    "a foreign key without the tenant, deferred": Wall(
        "CREATE UNIQUE INDEX one ON meetings (id); ALTER TABLE messages ADD meeting_id uuid,"
        " ADD CONSTRAINT loose FOREIGN KEY (meeting_id) REFERENCES meetings (id)"
        " DEFERRABLE INITIALLY DEFERRED",
        {"probe"},
        "messages",
        also="meetings",
    ),
    "a reference to itself without the tenant": Wall(
        "ALTER TABLE widgets ADD CONSTRAINT one UNIQUE (id), ADD parent_id uuid,"
        " ADD CONSTRAINT loose FOREIGN KEY (parent_id) REFERENCES widgets (id)",
        {"probe"},
    ),
    "slugs that a tenant may change": Wall(
        "GRANT UPDATE (slug) ON tenants TO tenantry_app", {"probe"}, "tenants"
    ),
}


@pytest.mark.parametrize("name", WALLS)
async def test_a_wall_that_is_down_is_found(
    name: str, urls: Urls, admin: asyncpg.Connection
) -> None:
    """The cells that it opens say crossed and no others do; what the findings say puts it up."""
    wall = WALLS[name]
    await admin.execute(wall.sql)
    before = await content(admin)
    table = f"public.{wall.table}"
    cells, findings = await attack(urls.admin)
    opened = {table, f"public.{wall.also or wall.table}"}
    assert {each for each, _ in crossed(cells)} == {each.table for each in findings} == opened
    assert {operation for each, operation in crossed(cells) if each == table} == wall.expected
    checks = {f"live-{operation.replace(' ', '-')}" for operation in wall.expected}
    assert {each.check for each in findings if each.table == table} == checks
    assert await content(admin) == before
    for mend in dict.fromkeys(each.mend for each in findings):
        await admin.execute(mend)
    _, left = await attack(urls.admin)
    assert left == []


async def test_a_table_that_does_not_exist_is_named(urls: Urls, connect: Connect) -> None:
    """A name that is no table is an error and not an empty row of the matrix."""
    with pytest.raises(ConfigurationError, match="no table public.wigdets"):
        await attack(urls.admin, "public.wigdets")
