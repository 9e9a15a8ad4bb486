"""One connection, used by one tenant after the other: plans, cursors, settings, names."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from tenantry import Database, Settings
from tenantry.errors import TenantryError
from tenantry.schema import Tenant, Widget
from tenantry.schema.row_security import APP_ROLE
from tests.conftest import Connect, Server, TenantPair, Urls, bind

IMMUTABLE = "ALTER FUNCTION tenantry.current_tenant() IMMUTABLE"


@dataclass(frozen=True)
class Single:
    """A pool of one connection, which every session has in turn; and two tenants."""

    db: Database
    tenants: TenantPair

    async def still_apart(self) -> None:
        """On this connection, each tenant still sees its own row and no other."""
        for tenant in self.tenants:
            async with self.db.tenant(tenant.id) as tx:
                names = (await tx.scalars(text("SELECT name FROM widgets"))).all()
            assert names == [f"secret of {tenant.slug}"]


@pytest.fixture(scope="module")
async def single(server: Server, template: str) -> AsyncIterator[Single]:
    name = await server.create_database(template=template)
    settings = Settings(
        database_url=server.at(name, user=APP_ROLE),
        admin_url=server.at(name),
        pool_size=1,
        max_overflow=0,
    )
    async with Database.connect(settings=settings) as db:
        pair = TenantPair(Tenant(name="Acme", slug="acme"), Tenant(name="Globex", slug="globex"))
        async with db.operator(reason="test") as tx:
            tx.add_all(pair)
        await add_widgets(db, pair)
        yield Single(db, pair)
    await server.drop_database(name)


async def add_widgets(db: Database, tenants: TenantPair) -> None:
    for tenant in tenants:
        async with db.tenant(tenant.id) as tx:
            tx.add(Widget(name=f"secret of {tenant.slug}"))


# Plans


@pytest.mark.parametrize("down", [None, IMMUTABLE], ids=["standing", "down"])
@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan", "auto"])
async def test_a_prepared_statement_serves_the_tenant_that_is_bound(
    db: Database,
    tenants: TenantPair,
    app: asyncpg.Connection,
    admin: asyncpg.Connection,
    mode: str,
    down: str | None,
) -> None:
    """One plan for all, used by A, B and nobody in turn, reads the rows of whoever is bound.

    The planner inlines the tenant's function into the plan, but not its value. If the function
    were IMMUTABLE, a generic plan would keep the tenant it was made for.
    """
    await add_widgets(db, tenants)
    if down:
        await admin.execute(down)
    await app.execute(f"SET plan_cache_mode = {mode}")
    statement = await app.prepare("SELECT tenant_id FROM widgets WHERE name <> $1")
    mixed_up = False
    for _ in range(8):
        for tenant in (tenants.a.id, tenants.b.id, None):
            async with app.transaction():
                if tenant:
                    await bind(app, tenant)
                found = [row["tenant_id"] for row in await statement.fetch("x")]
            mixed_up |= found != ([tenant] if tenant else [])
    # "auto" plans anew for each of the first five; then it is a generic plan as well.
    assert mixed_up is (down is not None and mode != "force_custom_plan")


@pytest.mark.parametrize("mode", ["force_generic_plan", "auto"])
async def test_sessions_share_a_connections_statements_and_no_rows(
    single: Single, mode: str
) -> None:
    """The driver keeps prepared statements on the connection, and A's serve B its own rows."""
    for _ in range(7):
        for tenant in single.tenants:
            async with single.db.tenant(tenant.id) as tx:
                await tx.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
                names = (await tx.scalars(select(Widget.name))).all()
                raw = (await tx.scalars(text("SELECT name FROM widgets"))).all()
            assert names == raw == [f"secret of {tenant.slug}"]


# What is left behind

LEFT: dict[str, tuple[str, str]] = {
    "cursor": (
        "DECLARE loot CURSOR WITH HOLD FOR SELECT name FROM widgets",
        "FETCH ALL FROM loot",
    ),
    "setting": (
        "SELECT set_config('app.loot', (SELECT name FROM widgets), false)",
        "SELECT current_setting('app.loot', true)",
    ),
    "session's name": (
        "SELECT set_config('application_name', (SELECT name FROM widgets), false)",
        "SELECT current_setting('application_name')",
    ),
    "search path": (
        "SELECT set_config('search_path', 'public, secret_of_acme', false)",
        "SELECT replace(current_setting('search_path'), '_', ' ')",
    ),
    "channel": ('LISTEN "secret of acme"', "SELECT * FROM pg_listening_channels()"),
    "block of code": (
        "DO $$ BEGIN PERFORM set_config('app.loot', name, false) FROM widgets; END $$",
        "SELECT current_setting('app.loot', true)",
    ),
}


class _GivenUpError(Exception):
    pass


@pytest.mark.parametrize("end", ["commit", "rollback", "exception", "commit twice"])
@pytest.mark.parametrize("what", LEFT)
async def test_a_session_leaves_nothing_on_its_connection(
    single: Single, what: str, end: str
) -> None:
    """What A leaves on the connection, however its session ends, B does not find there."""
    leave, look = LEFT[what]
    with contextlib.suppress(_GivenUpError):
        async with single.db.tenant(single.tenants.a.id) as tx:
            await tx.execute(text(leave))
            if end == "rollback":
                await tx.rollback()
            elif end == "commit twice":
                await tx.commit()
                await tx.execute(text("SELECT 1"))
            elif end == "exception":
                raise _GivenUpError
    found: object = None
    try:
        async with single.db.tenant(single.tenants.b.id) as tx:
            found = (await tx.execute(text(look))).all()
    except SQLAlchemyError as error:
        found = error
    assert "secret of acme" not in str(found)
    await single.still_apart()


@pytest.mark.parametrize("what", LEFT)
async def test_a_bare_connection_is_not_kept_apart(
    db: Database, tenants: TenantPair, app: asyncpg.Connection, what: str
) -> None:
    """The database itself leaves these where they are: whoever pools connections has to clean."""
    await add_widgets(db, tenants)
    leave, look = LEFT[what]
    async with app.transaction():
        await bind(app, tenants.a.id)
        await app.execute(leave)
    async with app.transaction():
        await bind(app, tenants.b.id)
        assert "secret of acme" in str(await app.fetch(look))


@pytest.mark.parametrize(
    "statement",
    [
        "SET tenantry.tenant_id = '{b}'",
        "SET SESSION tenantry.tenant_id = '{b}'",
        "SET LOCAL tenantry.tenant_id = '{b}'",
        "set local  Tenantry.Tenant_Id to '{b}'",
        'SET LOCAL "tenantry"."tenant_id" = \'{b}\'',
        "/* x */ SET LOCAL tenantry.tenant_id = '{b}'",
        "SELECT set_config('tenantry.tenant_id', '{b}', true)",
        "SELECT set_config('tenantry.tenant_id', '{b}', false)",
        "RESET tenantry.tenant_id",
        "RESET ALL",
        "DISCARD ALL",
        "COMMIT",
        "-- done\nCOMMIT",
        "ROLLBACK",
        "END",
        "ABORT",
        "BEGIN",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "START TRANSACTION",
        "PREPARE TRANSACTION 'x'",
    ],
)
async def test_statements_by_hand_that_touch_the_tenant_are_refused(
    single: Single, statement: str
) -> None:
    """A statement that sets the tenant, or ends what binds it, is refused and changes nothing."""
    with pytest.raises(TenantryError):
        async with single.db.tenant(single.tenants.a.id) as tx:
            await tx.execute(text(statement.format(b=single.tenants.b.id)))
    await single.still_apart()


@pytest.mark.parametrize(
    "statement",
    [
        "DO $$ BEGIN EXECUTE format('SET tenantry.tenant_id = %L', '{b}'); END $$",
        "SELECT set_config('tenantry.' || 'tenant_id', '{b}', false)",
        "; SET tenantry.tenant_id = '{b}'",
        "/* /* */ */ SET tenantry.tenant_id = '{b}'",
        "; COMMIT",
        "; ROLLBACK",
        "; RESET ALL",
    ],
)
async def test_what_evades_the_refusal_ends_with_its_session(
    single: Single, statement: str
) -> None:
    """SQL that is written to get past the refusal may; the next session is not touched by it."""
    with contextlib.suppress(TenantryError, SQLAlchemyError):
        async with single.db.tenant(single.tenants.a.id) as tx:
            await tx.execute(text(statement.format(b=single.tenants.b.id)))
            await tx.execute(text("SELECT 1"))
    await single.still_apart()


# Names

BENT = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql RETURN '{b}';
GRANT USAGE ON SCHEMA evil TO PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA evil TO PUBLIC;
"""
BENDABLE = """
CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS uuid LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN nullif(current_setting('tenantry.tenant_id', true), '')::uuid;
END $$
"""


@pytest.mark.parametrize("down", [None, BENDABLE], ids=["standing", "down"])
@pytest.mark.parametrize(
    "path", ["", "pg_temp", "evil, pg_catalog, public", '"$user", evil, pg_catalog', "pg_catalog"]
)
async def test_the_search_path_does_not_bend_the_policy(
    db: Database,
    tenants: TenantPair,
    app: asyncpg.Connection,
    admin: asyncpg.Connection,
    path: str,
    down: str | None,
) -> None:
    """Even where somebody made functions with the names of PostgreSQL's, ours calls its own.

    A function whose names are looked up when it runs would be bent.
    """
    await add_widgets(db, tenants)
    await admin.execute(BENT.format(b=tenants.b.id))
    if down:
        await admin.execute(down)
    async with app.transaction():
        await bind(app, tenants.a.id)
        await app.execute("SELECT set_config('search_path', $1, true)", path)
        names = [row["name"] for row in await app.fetch("SELECT name FROM public.widgets")]
    bent = down is not None and "evil" in path
    assert names == ["secret of globex" if bent else "secret of acme"]


async def test_nothing_can_be_made_in_any_schema(
    app: asyncpg.Connection, connect: Connect, urls: Urls
) -> None:
    """There is no schema in which the application could shadow a name, not even its own."""
    writable = (
        "SELECT nspname::text FROM pg_namespace WHERE has_schema_privilege(oid, 'CREATE')"
        " UNION ALL SELECT 'a temporary one'"
        " WHERE has_database_privilege(current_database(), 'TEMPORARY')"
    )
    assert [row[0] for row in await app.fetch(writable)] == []
    admin = await connect(urls.admin)
    await admin.execute("GRANT CREATE ON SCHEMA public TO tenantry_app")
    assert [row[0] for row in await app.fetch(writable)] == ["public"]
