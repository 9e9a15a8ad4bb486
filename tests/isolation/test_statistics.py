"""What PostgreSQL keeps about rows, beside the rows: statistics and catalogs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import Server, bind
from tests.isolation.conftest import world_on
from tests.isolation.rows import World

SECRET = "the merger with Initech"
_READABLE = """
    SELECT format('%I.%I', nspname, relname) AS name
      FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
     WHERE nspname IN ('pg_catalog', 'information_schema') AND relkind IN ('r', 'v')
       AND has_table_privilege('tenantry_app', c.oid, 'SELECT')
     ORDER BY 1
"""
# Not rows of tables: what sessions of the same role are doing, this one's included.
ABOUT_SESSIONS = {
    "pg_catalog.pg_cursors",
    "pg_catalog.pg_prepared_statements",
    "pg_catalog.pg_stat_activity",
}


@pytest.fixture(params=[True, False], ids=["standing", "down"])
async def analyzed(
    request: pytest.FixtureRequest, server: Server, template: str
) -> AsyncIterator[tuple[World, bool]]:
    """A world in which B says the same thing often enough to be in every statistic of it."""
    database = await server.create_database(template=template)
    async with world_on(server, database) as world:
        await world.admin.execute(
            "INSERT INTO widgets (tenant_id, name)"
            f" SELECT '{world.b}', '{SECRET}' FROM generate_series(1, 100);"
            "CREATE STATISTICS together (mcv) ON name, tenant_id FROM widgets;"
            "CREATE STATISTICS expressed ON upper(name) FROM widgets;"
            "ANALYZE widgets"
        )
        if not request.param:
            # The extended statistics are, in patched versions, for the table's owner only.
            await world.admin.execute(
                "ALTER TABLE widgets DISABLE ROW LEVEL SECURITY;"
                "ALTER TABLE widgets OWNER TO tenantry_app"
            )
        yield world, request.param
    await server.drop_database(database)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT most_common_vals::text, histogram_bounds::text FROM pg_stats"
        " WHERE tablename = 'widgets'",
        "SELECT most_common_vals FROM pg_stats_ext WHERE tablename = 'widgets'",
        "SELECT most_common_vals::text FROM pg_stats_ext_exprs WHERE tablename = 'widgets'",
    ],
    ids=["columns", "combinations", "expressions"],
)
async def test_statistics_do_not_tell_of_others(analyzed: tuple[World, bool], query: str) -> None:
    """The common values of a table with row security are shown to nobody whom it binds."""
    world, standing = analyzed
    async with world.app.transaction():
        await bind(world.app, world.a)
        told = str([tuple(row) for row in await world.app.fetch(query)])
    assert (SECRET in told or SECRET.upper() in told) is not standing


async def test_no_catalog_that_can_be_read_holds_rows(analyzed: tuple[World, bool]) -> None:
    """Every catalog and system view that the application can read, read whole: B is in none."""
    world, standing = analyzed
    names = [row["name"] for row in await world.admin.fetch(_READABLE)]
    assert len(names) > 150
    holding = []
    for name in names:
        async with world.app.transaction():
            await bind(world.app, world.a)
            try:
                told = await world.app.fetch(f"SELECT r::text FROM {name} AS r")
            except (
                asyncpg.InsufficientPrivilegeError,
                asyncpg.FeatureNotSupportedError,
                asyncpg.ObjectNotInPrerequisiteStateError,
            ):
                continue
        text = str([row[0] for row in told])
        if SECRET in text or str(world.b) in text:
            holding.append(name)
    expected = set() if standing else {"pg_catalog.pg_stats", "pg_catalog.pg_stats_ext"}
    assert expected <= set(holding) - ABOUT_SESSIONS
    assert not standing or set(holding) <= ABOUT_SESSIONS


async def widgets_of(admin: asyncpg.Connection, tenant: UUID, name: str, count: int) -> None:
    await admin.execute(
        "INSERT INTO tenants (id, name, slug) VALUES ($1, 'x', $2)", tenant, tenant.hex
    )
    await admin.execute(
        "INSERT INTO widgets (tenant_id, name) SELECT $1, $2 || n % $3"
        " FROM generate_series(1, 2000) AS n",
        tenant,
        name,
        count,
    )


async def test_estimates_of_the_planner_are_not_kept_apart(
    app: asyncpg.Connection, admin: asyncpg.Connection
) -> None:
    """EXPLAIN estimates from the rows of all: A can tell a value that B has often from any other.

    Therefore the documentation says that plans are not for users.
    """
    a, b = uuid4(), uuid4()
    await widgets_of(admin, a, "unlike ", 2000)
    await widgets_of(admin, b, f"{SECRET} ", 2)
    await admin.execute("ANALYZE widgets")

    async def estimate(name: str) -> int:
        plan = await app.fetchval(
            f"EXPLAIN (FORMAT JSON) SELECT FROM widgets WHERE name = '{name}'"
        )
        return int(plan.partition('"Plan Rows": ')[2].partition(",")[0])

    async with app.transaction():
        await bind(app, a)
        assert await estimate(f"{SECRET} 1") > 100 * await estimate(f"{SECRET} 3")
        assert await app.fetch("SELECT FROM widgets WHERE name LIKE $1", f"{SECRET}%") == []


async def test_counts_of_explain_analyze_are_not_kept_apart(
    app: asyncpg.Connection, admin: asyncpg.Connection
) -> None:
    """EXPLAIN ANALYZE counts the rows that the policy removed, which are those of others."""
    a, b = uuid4(), uuid4()
    await widgets_of(admin, a, "x", 1)
    await widgets_of(admin, b, "y", 1)
    async with app.transaction():
        await bind(app, a)
        await app.execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off")
        plan = await app.fetch("EXPLAIN ANALYZE SELECT FROM widgets")
    assert "Rows Removed by Filter: 2000" in str(plan)


async def test_sizes_are_not_kept_apart(app: asyncpg.Connection, admin: asyncpg.Connection) -> None:
    """How large a table is, all tenants together, the application can see."""
    size = "SELECT pg_relation_size('widgets')"
    before = await app.fetchval(size)
    await widgets_of(admin, uuid4(), "x", 1)
    assert await app.fetchval(size) > before
