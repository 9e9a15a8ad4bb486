"""The audit from end to end: both parts, one report, and nothing left behind."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy import URL

from tenantry.errors import ConfigurationError, DatabaseUnavailableError
from tenantry.ops.audit import AuditReport, audit
from tenantry.ops.audit.report import OPERATIONS
from tenantry.schema import Base
from tests.conftest import Connect, TenantPair, Urls


def columns(report: AuditReport, table: str) -> dict[str, str]:
    return {
        attempt.operation: attempt.outcome for attempt in report.attempts if attempt.table == table
    }


async def test_a_fresh_database_has_no_finding(urls: Urls) -> None:
    """Every table of ours is looked at, every operation kept apart, and nothing is wrong."""
    report = await audit(urls.admin)
    assert report.findings == ()
    assert report.tables == tuple(
        sorted(f"public.{table.name}" for table in Base.metadata.sorted_tables)
    )
    assert set(columns(report, "public.widgets")) == set(OPERATIONS)
    assert "crossed" not in {attempt.outcome for attempt in report.attempts}
    assert (report.app_role, report.live) == ("tenantry_app", True)
    assert report.database.endswith(f"/{urls.admin.database}")
    assert "@" not in report.database


async def test_the_catalog_alone(urls: Urls) -> None:
    """Without the live part nothing is tried, and any role's URL will do."""
    report = await audit(urls.app, live=False)
    assert report.findings == ()
    assert {attempt.operation for attempt in report.attempts} == {"catalog"}
    assert not report.live


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE widgets DISABLE ROW LEVEL SECURITY",
        "ALTER POLICY tenant_isolation ON widgets USING (true) WITH CHECK (true)",
        "ALTER POLICY tenant_isolation ON widgets WITH CHECK (true)",
        "CREATE UNIQUE INDEX extra ON widgets (name)",
        "ALTER TABLE widgets ADD UNIQUE (id); ALTER TABLE conversation_sessions"
        " DROP CONSTRAINT conversation_sessions_tenant_id_widget_id_fkey,"
        " ADD FOREIGN KEY (widget_id) REFERENCES widgets (id)",
        "CREATE FUNCTION mine() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER"
        " RETURN (SELECT id FROM tenants LIMIT 1);"
        " ALTER POLICY tenant_isolation ON widgets USING (tenant_id = mine() OR true)",
        "CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS uuid LANGUAGE sql STABLE"
        " PARALLEL SAFE RETURN (SELECT tenant_id FROM widgets LIMIT 1)",
    ],
)
async def test_both_parts_are_mended_by_one_run_of_their_sql(
    urls: Urls, connect: Connect, sql: str
) -> None:
    """What the catalog says and what was crossed do not trip over each other's SQL."""
    admin = await connect(urls.admin)
    # A function that calls itself is stopped after some calls, and not after 2 MB of them.
    await admin.execute(f"ALTER DATABASE {urls.admin.database} SET max_stack_depth = '200kB'")
    await admin.execute(sql)
    report = await audit(urls.admin)
    assert report.findings
    for finding in report.findings:
        await admin.execute(finding.mend)
    assert (await audit(urls.admin)).findings == ()


async def test_the_matrix_says_which_table(urls: Urls, connect: Connect) -> None:
    """The column of the catalog is crossed where a finding is about the table."""
    admin = await connect(urls.admin)
    await admin.execute("CREATE POLICY open ON meetings TO tenantry_app USING (true)")
    report = await audit(urls.admin)
    assert columns(report, "public.meetings")["catalog"] == "crossed"
    assert columns(report, "public.meetings")["read"] == "crossed"
    assert set(columns(report, "public.widgets").values()) == {"kept apart"}


async def test_nothing_stays(urls: Urls, tenants: TenantPair, admin: asyncpg.Connection) -> None:
    """An audit of a database with tenants in it leaves it as it was."""
    count = "SELECT count(*) FROM tenants"
    before = await admin.fetchval(count)
    await audit(urls.admin)
    assert await admin.fetchval(count) == before == 2
    assert await admin.fetchval("SELECT count(*) FROM widgets") == 0


async def test_a_database_without_tables(empty_database: URL) -> None:
    """There is nothing to try; what stands around is judged all the same."""
    report = await audit(empty_database, app_role="pg_monitor")
    assert (report.tables, report.attempts) == ((), ())
    assert any("tenant_id" in note for note in report.notes)
    assert ("role pg_monitor", "role-membership") in {
        (each.subject, each.check) for each in report.findings
    }


async def test_a_table_that_a_migration_holds(
    urls: Urls, admin: asyncpg.Connection, impatient: None
) -> None:
    """The audit waits for a time and not for ever, and says what held it up."""
    async with admin.transaction():
        await admin.execute("LOCK TABLE widgets, pg_catalog.pg_policy IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailableError, match="a table is locked"):
            await audit(urls.admin, live=False)


async def test_a_role_that_does_not_exist(urls: Urls) -> None:
    """A misspelled role is said so."""
    with pytest.raises(ConfigurationError, match="There is no role nobody_there"):
        await audit(urls.admin, app_role="nobody_there")
