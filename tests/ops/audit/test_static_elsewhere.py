"""The static part on a database that is not ours: it judges what is there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import URL
from sqlalchemy.pool import NullPool

from tenantry.errors import ConfigurationError
from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.scope import Scope, read_scope
from tenantry.ops.audit.static.checking import static_findings
from tenantry.tenancy.connecting import create_engine
from tests.conftest import Connect, Server

ROLE = "audit_shop"

SHOP = f"""
    REVOKE TEMPORARY ON DATABASE {{database}} FROM PUBLIC;
    CREATE SCHEMA app;
    CREATE FUNCTION app.tenant() RETURNS bigint LANGUAGE sql STABLE
        RETURN nullif(current_setting('app.tenant_id', true), '')::bigint;
    CREATE TABLE app.companies (id bigint PRIMARY KEY, name text NOT NULL, slug text UNIQUE);
    CREATE TABLE app.customers (
        company bigint NOT NULL REFERENCES app.companies, id bigint, email text,
        PRIMARY KEY (company, id), UNIQUE (company, email));
    CREATE TABLE app.orders (
        company bigint NOT NULL REFERENCES app.companies, id bigint, customer bigint, due daterange,
        PRIMARY KEY (company, id),
        FOREIGN KEY (company, customer) REFERENCES app.customers (company, id));
    CREATE INDEX ON app.orders USING gist (due);
    ALTER TABLE app.companies ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    ALTER TABLE app.customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    ALTER TABLE app.orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON app.companies USING (id = app.tenant()) WITH CHECK (id = app.tenant());
    CREATE POLICY own ON app.customers
        USING (company = app.tenant()) WITH CHECK (company = app.tenant());
    CREATE POLICY own ON app.orders
        USING (company = nullif(current_setting('app.tenant_id', true), '')::bigint)
        WITH CHECK (company = nullif(current_setting('app.tenant_id', true), '')::bigint);
    GRANT USAGE ON SCHEMA app TO {ROLE};
    GRANT SELECT ON app.companies TO {ROLE};
    GRANT SELECT, INSERT, UPDATE, DELETE ON app.customers, app.orders TO {ROLE};
"""


@dataclass
class Shop:
    """Somebody's database, and the administrator's connection to it."""

    url: URL
    admin: asyncpg.Connection
    role: str

    async def run(self, sql: str) -> None:
        """Run SQL in which the application's role is called `ROLE`."""
        await self.admin.execute(re.sub(rf"\b{ROLE}\b", self.role, sql))

    async def scope(self) -> Scope:
        return (await self._audit())[0]

    async def findings(self) -> list[Finding]:
        return (await self._audit())[1]

    async def _audit(self) -> tuple[Scope, list[Finding]]:
        engine = create_engine(self.url, pool_class=NullPool)
        async with engine.connect() as connection:
            await connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            await connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
            scope = await connection.run_sync(
                read_scope, app_role=self.role, tenant_column="company"
            )
            return scope, await connection.run_sync(static_findings, scope)


@pytest.fixture
async def shop(server: Server, empty_database: URL, connect: Connect) -> AsyncIterator[Shop]:
    admin = await connect(empty_database)
    shop = Shop(empty_database, admin, f"{ROLE}_{uuid4().hex[:8]}")
    await shop.run(f"CREATE ROLE {ROLE} LOGIN")
    await shop.run(SHOP.format(database=empty_database.database))
    yield shop
    await shop.run(f"DROP OWNED BY {ROLE} CASCADE; DROP ROLE {ROLE}")


async def test_walls_of_another_make_are_walls(shop: Shop) -> None:
    """Nothing is found in a database that keeps its tenants apart by its own means."""
    assert await shop.findings() == []


async def test_how_the_tenant_is_told_is_found_out(shop: Shop) -> None:
    """The setting, the function and the table of the tenants are read from the catalog."""
    scope = await shop.scope()
    assert not scope.is_ours
    assert scope.tenant_setting == "app.tenant_id"
    assert scope.tenant_expression == "app.tenant()"
    assert scope.tenant_table == "app.companies"


MUTATIONS = [
    ("ALTER TABLE app.orders DISABLE ROW LEVEL SECURITY", "app.orders", "row-security-off"),
    ("ALTER TABLE app.orders NO FORCE ROW LEVEL SECURITY", "app.orders", "row-security-not-forced"),
    ("DROP POLICY own ON app.orders", "app.orders", "policy-missing"),
    ("ALTER POLICY own ON app.orders USING (true)", "app.orders", "policy-open"),
    ("ALTER POLICY own ON app.orders WITH CHECK (true)", "app.orders", "policy-without-check"),
    (
        "ALTER POLICY own ON app.orders USING (company = (SELECT app.tenant()))",
        "app.orders",
        "policy-not-direct",
    ),
    (
        "ALTER POLICY own ON app.orders USING (company = current_setting('other.id')::bigint)",
        "app.orders",
        "policy-not-direct",
    ),
    ("CREATE POLICY more ON app.orders USING (true)", "app.orders", "policy-open"),
    ("ALTER TABLE app.companies DISABLE ROW LEVEL SECURITY", "app.companies", "row-security-off"),
    ("GRANT TRUNCATE ON app.orders TO audit_shop", "app.orders", "grant-too-wide"),
    ("GRANT SELECT ON app.orders TO PUBLIC", "app.orders", "grant-too-wide"),
    ("ALTER TABLE app.orders OWNER TO audit_shop", "app.orders", "owner-is-application"),
    ("CREATE UNIQUE INDEX ON app.customers (email)", "app.customers", "unique-without-tenant"),
    ("CREATE INDEX ON app.customers (email)", "app.customers", "index-without-tenant"),
    (
        "ALTER TABLE app.orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id)",
        "app.orders",
        "primary-key-without-tenant",
    ),
    (
        "ALTER TABLE app.customers ADD UNIQUE (id);"
        "ALTER TABLE app.orders ADD FOREIGN KEY (customer) REFERENCES app.customers (id)",
        "app.orders",
        "foreign-key-without-tenant",
    ),
    (
        "ALTER TABLE app.customers ADD UNIQUE (id);"
        "ALTER TABLE app.orders DROP CONSTRAINT orders_company_customer_fkey,"
        " ADD FOREIGN KEY (customer) REFERENCES app.customers (id) ON DELETE SET NULL",
        "app.orders",
        "foreign-key-without-tenant",
    ),
    (
        "ALTER TABLE app.orders DROP CONSTRAINT orders_company_fkey",
        "app.orders",
        "tenant-without-foreign-key",
    ),
    ("CREATE TABLE app.logs (line text); GRANT INSERT ON app.logs TO audit_shop", "app.logs",
     "table-undeclared"),
    (
        "CREATE TABLE app.notes (company bigint, body text);"
        "GRANT SELECT ON app.notes TO audit_shop",
        "app.notes",
        "row-security-off",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "table", "check"), MUTATIONS)
async def test_what_is_wrong_elsewhere_is_named_and_mended(
    shop: Shop, sql: str, table: str, check: str
) -> None:
    """The same checks hold for tables of any make, and their SQL fits."""
    await shop.run(sql)
    found = await shop.findings()
    assert (f"table {table}", check) in {(each.subject, each.check) for each in found}, found
    for each in found:
        await shop.run(each.mend)
    assert await shop.findings() == []


@pytest.mark.parametrize(
    ("sql", "subject", "check"),
    [
        (
            "ALTER FUNCTION app.tenant() VOLATILE",
            "function app.tenant()",
            "tenant-function",
        ),
        *(
            (
                f"CREATE OR REPLACE FUNCTION app.tenant() RETURNS bigint {body}",
                "function app.tenant()",
                "tenant-function",
            )
            for body in (
                "LANGUAGE sql STABLE RETURN"
                " coalesce(nullif(current_setting('app.tenant_id', true), '')::bigint, 1)",
                "LANGUAGE sql STABLE AS $$ SELECT"
                " coalesce(nullif(current_setting('app.tenant_id', true), ''), '1')::bigint $$",
                "LANGUAGE sql STABLE AS $$ SELECT coalesce("
                "nullif(current_setting('app.tenant_id', true), '')::bigint,"
                " (SELECT min(id) FROM app.companies)) $$",
                "LANGUAGE plpgsql STABLE AS $$ BEGIN"
                " IF current_setting('app.tenant_id', true) IS NULL THEN RETURN 1; END IF;"
                " RETURN current_setting('app.tenant_id')::bigint; END $$",
            )
        ),
        (
            "ALTER FUNCTION app.tenant() IMMUTABLE",
            "function app.tenant()",
            "tenant-function",
        ),
        (
            "ALTER FUNCTION app.tenant() SET app.tenant_id = '1'",
            "function app.tenant()",
            "function-setting",
        ),
        (
            "CREATE FUNCTION app.bind(one bigint) RETURNS void LANGUAGE sql AS"
            " $$ SELECT set_config('app.tenant_id', one::text, false) $$",
            "function app.bind(one bigint)",
            "binds-session",
        ),
        (
            "ALTER TABLE app.customers ALTER company ADD GENERATED BY DEFAULT AS IDENTITY",
            "table app.customers",
            "tenant-default",
        ),
        (
            """ALTER ROLE audit_shop SET "App.Tenant_Id" = '1'""",
            "role audit_shop",
            "setting-tenant",
        ),
        (
            "CREATE VIEW app.seen AS SELECT * FROM app.orders",
            "view app.seen",
            "view-without-invoker",
        ),
        ("CREATE SCHEMA audit_shop", "schema audit_shop", "schema-shadows"),
        ("GRANT CREATE ON SCHEMA app TO PUBLIC", "schema app", "schema-grant"),
        (
            "GRANT TEMPORARY ON DATABASE {database} TO PUBLIC",
            "database {database}",
            "database-grant",
        ),
        (
            "ALTER DATABASE {database} SET app.tenant_id = '1'",
            "database {database}",
            "setting-tenant",
        ),
    ],
)
async def test_what_stands_around_is_named_and_mended(
    shop: Shop, sql: str, subject: str, check: str
) -> None:
    """Views, functions, schemas and settings of another database are looked at, too."""
    await shop.run(sql.format(database=shop.url.database))
    found = await shop.findings()
    subject = subject.format(database=shop.url.database).replace(ROLE, shop.role)
    assert [(each.subject, each.check) for each in found] == [(subject, check)]
    await shop.run(found[0].mend)
    assert await shop.findings() == []


@pytest.mark.parametrize(
    "body",
    [
        "LANGUAGE sql STABLE AS $$ SELECT"
        " coalesce(nullif(current_setting('app.tenant_id', true), '')::bigint, NULL) $$",
        "LANGUAGE plpgsql STABLE AS $$ DECLARE told text := current_setting('app.tenant_id', true);"
        " BEGIN IF told = '' THEN RETURN NULL; END IF; RETURN told::bigint; END $$",
    ],
)
async def test_a_function_that_falls_back_on_nothing_is_no_finding(shop: Shop, body: str) -> None:
    """However the tenant is read: without one there is none."""
    await shop.run(f"CREATE OR REPLACE FUNCTION app.tenant() RETURNS bigint {body}")
    assert await shop.findings() == []


async def test_a_user_trigger_stays_as_it_was(shop: Shop) -> None:
    """Switching the keys of a table on again does not switch on what its team switched off."""
    await shop.run(
        "CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER touch BEFORE UPDATE ON app.orders FOR EACH ROW"
        " EXECUTE FUNCTION app.touch(); ALTER TABLE app.orders DISABLE TRIGGER ALL"
    )
    (found,) = await shop.findings()
    assert found.check == "triggers-disabled"
    await shop.run(found.mend)
    assert await shop.findings() == []
    enabled = await shop.admin.fetchval("SELECT tgenabled FROM pg_trigger WHERE tgname = 'touch'")
    assert enabled == b"D"


async def test_a_role_without_any_right_can_audit(shop: Shop) -> None:
    """The catalog is everybody's: it takes no right on the schemas that it is about."""
    nobody = f"audit_nobody_{uuid4().hex[:8]}"
    await shop.run(f"CREATE ROLE {nobody} LOGIN; DROP TABLE app.orders")
    await shop.run("CREATE TABLE app.orders (company bigint, id bigserial PRIMARY KEY)")
    expected = await shop.findings()
    try:
        stranger = Shop(shop.url.set(username=nobody), shop.admin, shop.role)
        assert await stranger.findings() == expected != []
    finally:
        await shop.run(f"DROP ROLE {nobody}")


async def test_a_database_with_nothing_in_it(empty_database: URL) -> None:
    """Without a table there is no wall to look at, and no error either."""
    engine = create_engine(empty_database, pool_class=NullPool)
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        scope = await connection.run_sync(read_scope, app_role="pg_monitor")
        assert (scope.tenant_table, scope.tenant_setting, scope.is_ours) == (None, None, False)
        await connection.run_sync(static_findings, scope)


async def test_the_role_must_exist(shop: Shop) -> None:
    """A misspelled role is said so, and not taken for one without rights."""
    engine = create_engine(shop.url, pool_class=NullPool)
    async with engine.connect() as connection:
        with pytest.raises(ConfigurationError, match="no role nobody_there"):
            await connection.run_sync(read_scope, app_role="nobody_there")
