"""The static part on databases whose walls stand: ours, seeded, and with tables of a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.pool import NullPool

from tenantry import Database
from tenantry.ops import drift
from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.scope import read_scope
from tenantry.ops.audit.static.checking import static_findings
from tenantry.ops.migrations import migrate
from tenantry.ops.project import Project
from tenantry.ops.revisions import revision
from tenantry.ops.seed import SeedPlan, seed
from tenantry.tenancy.connecting import create_engine, run_script
from tests.conftest import Connect, Urls
from tests.ops.projects import NOTES, declare

pytestmark = pytest.mark.untraced

WALLS = """
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY tenant_isolation ON {table} TO tenantry_app
        USING (tenant_id = tenantry.current_tenant())
        WITH CHECK (tenant_id = tenantry.current_tenant());
    CREATE POLICY operator_access ON {table} TO tenantry_operator USING (true) WITH CHECK (true);
    GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO tenantry_app, tenantry_operator;
"""
TABLE = """
    CREATE TABLE {table} (
        tenant_id uuid NOT NULL DEFAULT tenantry.current_tenant()
            REFERENCES tenants ON DELETE CASCADE,
        id uuid NOT NULL DEFAULT gen_random_uuid(), body text, PRIMARY KEY (tenant_id, id));
"""


async def findings(url: Any, *, project: Project | None = None, **options: Any) -> list[Finding]:
    """Audit as the static part does it: nothing may be written."""
    engine = create_engine(url, pool_class=NullPool)

    def audit(connection: Connection) -> list[Finding]:
        scope = read_scope(connection, metadata=(project or Project()).metadata, **options)
        return static_findings(connection, scope)

    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        await connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        return await connection.run_sync(audit)


async def test_a_seeded_database_has_no_finding(urls: Urls) -> None:
    """What `tenantry db seed` leaves is walled in as before."""
    async with Database.connect(settings=urls.settings) as db:
        await seed(db, SeedPlan(users=9, chunks=60))
    assert await findings(urls.admin) == []


async def test_any_role_can_read_the_catalog(urls: Urls) -> None:
    """The static part needs no right, so it runs with the application's own URL."""
    assert await findings(urls.app) == []


@pytest.mark.parametrize("way", ["push", "migrate"])
async def test_a_model_of_ones_own_has_no_finding(urls: Urls, tmp_path: Path, way: str) -> None:
    """A model that inherits TenantScoped is walled in like ours, and known as declared."""
    project = declare(tmp_path, NOTES)
    if way == "push":
        await drift.push(urls.admin, project=project)
    else:
        await revision(urls.admin, message="notes", project=project)
        await migrate(urls.admin, project=project)
    assert await findings(urls.admin, project=project) == []
    assert await findings(urls.admin) == []  # its walls are complete, so nobody need declare it


CUSTOM = """
    from sqlalchemy import Identity
    from sqlalchemy.orm import Mapped, mapped_column
    from tenantry.schema import Base, Grant, Policy, RowSecurity, TenantScoped

    class Mine(Base):
        __abstract__ = True
        metadata = metadata

    class Memo(TenantScoped, Mine):
        __tablename__ = "memos"
        body: Mapped[str]
        kind: Mapped[str]

    own = "tenant_id=tenantry.current_tenant()"
    Memo.__table__.info["row_security"] = RowSecurity(
        policies=(
            Policy("own", ("tenantry_operator", "tenantry_app"), using=own, check=own),
            Policy("kinds", ("tenantry_app",), command="SELECT", permissive=False,
                   using="kind in ('a', 'b') and " + own),
            Policy("short", ("tenantry_app",), check="length(body)<10", command="INSERT",
                   permissive=False),
        ),
        grants=(Grant("tenantry_app", frozenset({"SELECT", "INSERT"})),),
    )

    class Entry(TenantScoped, Mine):
        __tablename__ = "entries"
        id: Mapped[int] = mapped_column(Identity(), primary_key=True)
        body: Mapped[str]

    class Plan(Mine):
        __tablename__ = "plans"
        name: Mapped[str] = mapped_column(primary_key=True)
"""


async def test_row_security_of_ones_own_is_accepted_as_declared(
    urls: Urls, connect: Connect, tmp_path: Path
) -> None:
    """However it is spelled, until it means something else."""
    project = declare(tmp_path, CUSTOM)
    await drift.push(urls.admin, project=project)
    assert await findings(urls.admin, project=project) == []
    admin = await connect(urls.admin)
    await admin.execute(
        "ALTER POLICY short ON memos WITH CHECK (length(body) < 11);"
        "ALTER POLICY kinds ON memos USING (kind IN ('a', 'b'));"
        "GRANT DELETE ON memos TO tenantry_app; GRANT SELECT ON plans TO tenantry_app"
    )
    found = await findings(urls.admin, project=project)
    assert [(each.subject, each.check) for each in found] == [
        ("table public.memos", "grant-too-wide"),
        ("table public.memos", "policy-differs"),
        ("table public.memos", "policy-differs"),
        ("table public.plans", "grant-too-wide"),
    ]
    for each in found:
        await admin.execute(each.mend)
    assert await findings(urls.admin, project=project) == []


async def test_shared_tables_may_be_read_and_not_written(
    urls: Urls, connect: Connect, tmp_path: Path
) -> None:
    """A table named as shared is accepted; that the application writes it is not."""
    admin = await connect(urls.admin)
    await admin.execute(
        "CREATE TABLE countries (code text PRIMARY KEY);"
        "GRANT SELECT, INSERT ON countries TO tenantry_app"
    )
    found = await findings(urls.admin, shared=["countries"])
    assert [each.check for each in found] == ["shared-table-writable"]
    await admin.execute(found[0].mend)
    assert await findings(urls.admin, shared=["public.countries"]) == []
    assert await admin.fetchval("SELECT has_table_privilege('tenantry_app', 'countries', 'SELECT')")
    assert [each.check for each in await findings(urls.admin)] == ["table-undeclared"]


async def test_partitions_stand_behind_the_walls_of_the_whole(urls: Urls, connect: Connect) -> None:
    """A partition that nobody can reach by itself needs no walls of its own."""
    admin = await connect(urls.admin)
    await admin.execute(
        "CREATE TABLE parts (tenant_id uuid NOT NULL REFERENCES tenants, id uuid,"
        " PRIMARY KEY (tenant_id, id)) PARTITION BY HASH (tenant_id);"
        "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        + WALLS.format(table="parts")
    )
    assert await findings(urls.admin) == []


async def test_names_that_must_be_quoted(urls: Urls, connect: Connect) -> None:
    """Names with capitals, spaces and quotes are found and mended like others."""
    admin = await connect(urls.admin)
    table = '"Odd ""name"""'
    await admin.execute(
        f"CREATE TABLE {table} (LIKE widgets INCLUDING DEFAULTS);"
        f'CREATE UNIQUE INDEX "Odd" ON {table} (name);'
        f'CREATE POLICY "Odd one" ON {table} USING (true);'
        f"GRANT ALL ON {table} TO tenantry_app, PUBLIC"
    )
    found = await findings(urls.admin)
    assert {each.subject for each in found} == {f"table public.{table}"}
    assert {each.check for each in found} >= {"row-security-off", "unique-without-tenant"}
    for each in found:
        await admin.execute(each.mend)
    assert await findings(urls.admin) == []


async def test_the_number_of_queries_does_not_grow(urls: Urls, connect: Connect) -> None:
    """Two hundred tables are read with as many statements as ten."""
    engine = create_engine(urls.admin, pool_class=NullPool)
    sent: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def _count(*arguments: Any) -> None:
        sent.append(arguments[2])

    def audit(connection: Connection) -> list[Finding]:
        return static_findings(connection, read_scope(connection))

    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        assert await connection.run_sync(audit) == []
    few = len(sent)
    many = "".join((TABLE + WALLS).format(table=f"public.many_{i}") for i in range(200))
    async with engine.connect() as connection:
        await connection.run_sync(run_script, many)
        await connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        sent.clear()
        assert await connection.run_sync(audit) == []
        assert len(sent) + 1 == few
        await connection.rollback()
