"""Each wall taken down by itself: the audit names it, and its SQL puts it up again.

Everything happens in one transaction that is rolled back, because the roles are the whole
server's, and other tests are at work there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.scope import read_scope
from tenantry.ops.audit.static.checking import static_findings
from tenantry.schema import Base
from tenantry.tenancy.connecting import create_engine, run_script
from tenantry.tenancy.functions import SqlFunction
from tests.conftest import Server
from tests.isolation import house
from tests.isolation.mutation import Mutation
from tests.isolation.mutations import MUTATIONS, NEWER
from tests.isolation.mutations_of_searches import FILTER

TABLES = "|".join(table.name for table in Base.metadata.sorted_tables)


@dataclass(frozen=True)
class Patient:
    """A migrated database in a transaction of the superuser's."""

    connection: AsyncConnection
    database: str
    admin: str

    def fill(self, text: str) -> str:
        return text.replace("{database}", self.database).replace("{admin}", self.admin)

    async def run(self, sql: str, *, path: str) -> None:
        await self.connection.exec_driver_sql(f"SET LOCAL search_path = {path}")
        await self.connection.run_sync(run_script, self.fill(sql))

    async def audit(self) -> list[Finding]:
        await self.connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        return await self.connection.run_sync(_audit)


def _audit(connection: Connection) -> list[Finding]:
    return static_findings(connection, read_scope(connection))


@pytest.fixture(scope="module")
async def connection(server: Server, template: str) -> AsyncIterator[AsyncConnection]:
    """The superuser's; a new one for each case would learn the catalog anew each time."""
    name = await server.create_database(template=template)
    engine = create_engine(server.at(name), pool_class=NullPool)
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()
    await server.drop_database(name)


@pytest.fixture
async def patient(connection: AsyncConnection) -> AsyncIterator[Patient]:
    here = await connection.exec_driver_sql("SELECT current_database()::text, current_user::text")
    database, admin = map(str, here.one())
    yield Patient(connection, database, admin)
    await connection.rollback()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
async def test_a_wall_taken_down_is_named_and_mended(patient: Patient, mutation: Mutation) -> None:
    """The audit reports the check on its subject, and with the SQL it prints nothing is left."""
    await named_and_mended(patient, mutation)


@pytest.mark.parametrize(("version", "mutation"), NEWER, ids=[each.name for _, each in NEWER])
async def test_a_wall_of_newer_servers_is_named_and_mended(
    patient: Patient, version: int, mutation: Mutation
) -> None:
    """The same for what only newer servers have; an older one refuses the mutation itself."""
    shown = await patient.connection.exec_driver_sql("SHOW server_version_num")
    if int(shown.scalar_one()) >= version * 10000:
        await named_and_mended(patient, mutation)
        return
    with pytest.raises(asyncpg.PostgresError):
        await patient.run(mutation.sql, path="public")


async def named_and_mended(patient: Patient, mutation: Mutation) -> None:
    await patient.run(mutation.sql, path="public")
    found = await patient.audit()
    assert (patient.fill(mutation.subject), mutation.check) in {
        (each.subject, each.check) for each in found
    }, found
    for finding in found:
        assert all((finding.what, finding.why, finding.mend)), finding
        await patient.run(finding.mend, path="pg_catalog")
    assert await patient.audit() == []


async def test_nothing_is_found_where_all_walls_stand(patient: Patient) -> None:
    """A database that was just migrated has no finding."""
    assert await patient.audit() == []


async def test_an_administrator_of_a_managed_service_is_not_the_application(
    patient: Patient,
) -> None:
    """Who has made the roles may become them, and holds nothing that the audit must name."""
    await patient.run(
        "CREATE ROLE audit_admin LOGIN CREATEROLE CREATEDB;"
        " GRANT tenantry_owner, tenantry_auth, tenantry_operator, tenantry_app TO audit_admin"
        " WITH ADMIN TRUE, SET TRUE, INHERIT FALSE",
        path="public",
    )
    assert await patient.audit() == []


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX ON messages (tenant_id, created_at DESC)",
        "ALTER TABLE messages ADD CONSTRAINT short CHECK (length(content) < 100000)",
        "CREATE EXTENSION pg_stat_statements; CREATE EXTENSION btree_gist; CREATE EXTENSION citext",
        "CREATE ROLE audit_web LOGIN; GRANT tenantry_app TO audit_web",
        "CREATE ROLE audit_migrator LOGIN; GRANT tenantry_owner, tenantry_auth, tenantry_operator"
        " TO audit_migrator WITH SET TRUE, INHERIT FALSE",
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN email AS text CHECK (VALUE ~ '@')",
        "CREATE FUNCTION hello(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
        "CREATE FUNCTION bind(one uuid) RETURNS text LANGUAGE sql"
        " RETURN set_config('tenantry.tenant_id', one::text, true)",
        "CREATE VIEW seen WITH (security_invoker) AS SELECT * FROM users;"
        " GRANT SELECT ON seen TO tenantry_app",
        "ALTER ROLE tenantry_app SET statement_timeout = '5s'",
        "CREATE SEQUENCE invoices; GRANT USAGE ON SEQUENCE invoices TO tenantry_operator",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.changed_at := now(); RETURN NEW; END; $$;"
        " CREATE TABLE stray (tenant_id uuid NOT NULL REFERENCES tenants, id uuid,"
        " changed_at timestamptz, PRIMARY KEY (tenant_id, id));"
        " ALTER TABLE stray ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        " CREATE POLICY own_rows ON stray TO tenantry_app USING"
        " (tenant_id = tenantry.current_tenant())"
        " WITH CHECK (tenant_id = tenantry.current_tenant());"
        " CREATE TRIGGER touch BEFORE UPDATE ON stray FOR EACH ROW EXECUTE FUNCTION touch()",
    ],
)
async def test_what_harms_nobody_is_no_finding(patient: Patient, sql: str) -> None:
    """Ordinary things that a team adds take no wall down, and the audit says nothing of them."""
    await patient.run(sql, path="public")
    assert await patient.audit() == []


@pytest.mark.parametrize("function", house.SEARCHES, ids=lambda each: each.file)
def test_a_search_asks_for_the_tenant_wherever_it_reads(function: SqlFunction) -> None:
    """Search functions see every tenant's rows: each table that they name has a condition."""
    sql = re.sub(r"--.*", "", function.sql)
    read = re.findall(r"\b(?:FROM|JOIN|,)\s+(?:public\.)?\w+", sql)
    tables = [each for each in read if re.search(rf"\b(?:{TABLES})$", each)]
    assert len(FILTER.findall(sql)) == len(tables)


def test_the_mutations_are_distinct() -> None:
    """Each has a name of its own, and there are as many as we say."""
    assert Counter(each.name for each in MUTATIONS).most_common(1)[0][1] == 1
    assert len(MUTATIONS) >= 330
