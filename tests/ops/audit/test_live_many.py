"""The live part on a database of 200 tenant tables."""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import Urls
from tests.ops.audit.test_live import OURS, attack, content, crossed

pytestmark = pytest.mark.untraced

COUNT = 200
ROUND_TRIPS = 55
"""For each table. How long they take depends on who else uses the machine; this does not."""


def _table(number: int) -> str:
    parent = f"t{number - 1}" if number % 10 else "widgets"
    return f"""
        CREATE TABLE t{number} (
            tenant_id uuid NOT NULL REFERENCES tenants (id), id uuid NOT NULL,
            parent_id uuid NOT NULL, name text NOT NULL, number bigserial,
            amount numeric(10,2) NOT NULL CHECK (amount >= 0),
            kind text NOT NULL CHECK (kind IN ('a', 'b')), PRIMARY KEY (tenant_id, id),
            UNIQUE (tenant_id, name),
            FOREIGN KEY (tenant_id, parent_id) REFERENCES {parent} (tenant_id, id));
        ALTER TABLE t{number} ENABLE ROW LEVEL SECURITY;
        ALTER TABLE t{number} FORCE ROW LEVEL SECURITY;
        CREATE POLICY tenant_isolation ON t{number} TO tenantry_app
            USING (tenant_id = tenantry.current_tenant());
        CREATE POLICY operator_access ON t{number} TO tenantry_operator USING (true);
        GRANT SELECT, INSERT, UPDATE, DELETE ON t{number} TO tenantry_app, tenantry_operator;
    """


async def test_two_hundred_tables(
    urls: Urls, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are tried in few round trips, the one with a hole is found, and nothing is left."""
    await admin.execute("".join(_table(number) for number in range(COUNT)))
    await admin.execute("ALTER POLICY tenant_isolation ON t150 USING (true)")
    before = await content(admin)
    names = [f"public.t{number}" for number in range(COUNT)]
    sent: list[str] = []
    execute = asyncpg.Connection.execute

    async def count(self: asyncpg.Connection, query: str, *arguments: object) -> str:
        sent.append(query)
        return await execute(self, query, *arguments)

    monkeypatch.setattr(asyncpg.Connection, "execute", count)
    cells, findings = await attack(urls.admin, *OURS, *names)
    assert len(sent) < ROUND_TRIPS * (COUNT + len(OURS))
    monkeypatch.undo()
    assert {table for table, _ in crossed(cells)} == {"public.t150"}
    assert {each.table for each in findings} == {"public.t150"}
    assert not [
        each for each in cells.values() if each.outcome == "not tried" and "t150" not in each.table
    ]
    assert await content(admin) == before
