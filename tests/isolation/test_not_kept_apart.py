"""What the database does not keep apart. Each test shows one thing that the threat model names.

They are here so that the documentation stays true: where a newer PostgreSQL closes one of these,
its test fails, and the threat model can be shortened. All need SQL of one's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest

from tests.conftest import Connect, Server, bind, open_connection
from tests.isolation.rows import World


@dataclass(frozen=True)
class Sides:
    """A's connection and B's, both as the application's role."""

    a: asyncpg.Connection
    b: asyncpg.Connection
    world: World


@pytest.fixture
async def sides(server: Server, world: World, connect: Connect) -> AsyncIterator[Sides]:
    """Each in a transaction of its tenant, rolled back at the end."""
    url = server.at(world.database, user="tenantry_app")
    sides = Sides(await connect(url), await connect(url), world)
    for connection, tenant in ((sides.a, world.a), (sides.b, world.b)):
        await connection.execute("BEGIN")
        await bind(connection, tenant)
    yield sides
    for connection in (sides.a, sides.b):
        if not connection.is_closed():
            await connection.execute("ROLLBACK")


async def test_sql_of_ones_own_may_set_the_tenant(sides: Sides) -> None:
    """Whoever can write SQL can say that they are another tenant. Bound parameters only."""
    await bind(sides.a, sides.world.b)
    assert await sides.a.fetchval("SELECT tenant_id FROM widgets") == sides.world.b


async def test_advisory_locks_are_common(sides: Sides) -> None:
    """A lock that A takes, B cannot take, and sees in pg_locks with its number."""
    await sides.a.execute("SELECT pg_advisory_xact_lock(4711)")
    assert not await sides.b.fetchval("SELECT pg_try_advisory_xact_lock(4711)")
    seen = "SELECT objid::int FROM pg_locks WHERE locktype = 'advisory'"
    assert await sides.b.fetchval(seen) == 4711


async def test_notifications_are_common(server: Server, sides: Sides) -> None:
    """What A notifies, B hears: channels and payloads know no tenant."""
    heard: list[object] = []
    await sides.b.execute("COMMIT")
    await sides.b.add_listener("news", lambda *arguments: heard.append(arguments[-1]))
    await sides.a.execute("NOTIFY news, 'of a'; COMMIT")
    await sides.b.execute("SELECT 1")
    assert heard == ["of a"]


async def test_large_objects_are_common(sides: Sides) -> None:
    """Large objects belong to the role, which all tenants share. Do not keep data in them."""
    number = await sides.a.fetchval("SELECT lo_from_bytea(0, 'of a')")
    await sides.a.execute("COMMIT")
    try:
        assert await sides.b.fetchval("SELECT lo_get($1)", number) == b"of a"
    finally:
        await sides.a.execute(f"SELECT lo_unlink({number})")


async def test_running_statements_are_common(sides: Sides) -> None:
    """The text of a statement of the same role is seen; what is bound to it is not."""
    await sides.a.fetch("SELECT 'in the text', $1::text", "bound")
    query = "SELECT query FROM pg_stat_activity WHERE pid = $1"
    seen = await sides.b.fetchval(query, sides.a.get_server_pid())
    assert "in the text" in seen
    assert "bound" not in seen


async def test_sessions_of_the_role_can_be_ended(sides: Sides) -> None:
    """One session of the application can end another: denial of service, not disclosure."""
    victim = sides.a.get_server_pid()
    assert await sides.b.fetchval("SELECT pg_terminate_backend($1)", victim)
    alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1"
    async with asyncio.timeout(30):
        while await sides.world.admin.fetchval(alive, victim):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    sides.a.terminate()


async def test_locks_of_whole_tables_are_common(sides: Sides) -> None:
    """A may lock a table for everybody, since it may delete from it. Set limits for the role."""
    await sides.a.execute("LOCK TABLE widgets IN ACCESS EXCLUSIVE MODE")
    await sides.b.execute("SET LOCAL lock_timeout = '50ms'")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await sides.b.fetch("SELECT FROM widgets")


async def test_failures_to_serialize_are_common(sides: Sides) -> None:
    """SERIALIZABLE counts reads and writes of all tenants: a failure tells that others write."""
    for connection, tenant in ((sides.a, sides.world.a), (sides.b, sides.world.b)):
        await connection.execute("ROLLBACK; BEGIN ISOLATION LEVEL SERIALIZABLE")
        await bind(connection, tenant)
        await connection.execute(
            "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off"
        )
        await connection.fetch("SELECT count(*) FROM widgets")
    for connection in (sides.a, sides.b):
        await connection.execute("UPDATE widgets SET name = name")
    await sides.a.execute("COMMIT")
    with pytest.raises(asyncpg.SerializationError):
        await sides.b.execute("COMMIT")


async def test_numbers_of_transactions_are_common(sides: Sides) -> None:
    """Ids of transactions count those of all tenants, so that A can tell how busy others are."""
    before = int(
        str(await sides.a.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))
    )
    await sides.b.execute("UPDATE widgets SET name = name; COMMIT")
    now = await sides.a.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
    assert int(str(now)) > before


async def test_places_of_rows_are_common(sides: Sides) -> None:
    """All rows lie in one table: between two of its own, A can count what others have put there."""
    add = "INSERT INTO widgets (name) VALUES ('x') RETURNING (ctid::text::point)[1]::int"
    first = await sides.a.fetchval(add)
    for _ in range(7):
        await sides.b.execute("INSERT INTO widgets (name) VALUES ('x')")
    assert await sides.a.fetchval(add) == first + 8


async def test_names_of_prepared_statements_are_common(sides: Sides) -> None:
    """What a session prepared by hand stays on the connection, with its text."""
    await sides.a.execute("PREPARE mine AS SELECT 'of a'; COMMIT; BEGIN")
    await bind(sides.a, sides.world.b)
    texts = await sides.a.fetch("SELECT statement FROM pg_prepared_statements")
    assert "of a" in str(texts)


async def test_time_is_common(sides: Sides) -> None:
    """A waits where B holds a key that A must not have: unique keys that lack the tenant do that.

    All of ours have it, so that A does not wait for B's key, nor learn of it.
    """
    statement = "INSERT INTO users (email, hashed_password, name) VALUES ('x@y', 'x', 'x')"
    await sides.b.execute(statement)
    await asyncio.wait_for(sides.a.execute(statement), 5)


async def test_a_role_can_drop_its_own_policies(server: Server, world: World) -> None:
    """DROP OWNED takes a role out of every policy of the database, for all tenants at once.

    It closes and does not open: without its policies the role sees no row of anybody's, until an
    administrator has them made anew. `tenantry db check` names each that is missing. Shown with a
    role of its own, because for `tenantry_app` it would reach into the databases of other tests.
    """
    role = f"tenantry_test_{uuid4().hex[:12]}"
    password = f"PASSWORD '{server.url.password}'" if server.url.password else ""
    await world.admin.execute(
        f"CREATE ROLE {role} LOGIN {password};"
        f"GRANT USAGE ON SCHEMA tenantry, public TO {role}; GRANT SELECT ON widgets TO {role};"
        f"GRANT EXECUTE ON FUNCTION tenantry.current_tenant() TO {role};"
        f"CREATE POLICY of_the_role ON widgets TO {role}"
        " USING (tenant_id = tenantry.current_tenant())"
    )
    connection = await open_connection(server.at(world.database, user=role))
    seen = []
    try:
        for statement in ("SELECT 1", f"DROP OWNED BY {role}"):
            await connection.execute(statement)
            async with connection.transaction():
                await bind(connection, world.a)
                seen.append(await connection.fetchval("SELECT count(*) FROM widgets"))
    finally:
        await connection.close()
        await world.admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert seen == [1, 0]
