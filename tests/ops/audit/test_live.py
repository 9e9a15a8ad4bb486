from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from tenantry.ops.audit.live import try_crossings
from tenantry.ops.audit.report import OPERATIONS, Attempt, Finding
from tenantry.ops.audit.scope import Scope
from tenantry.schema import Base
from tenantry.tenancy.connecting import create_engine
from tests.conftest import Urls, open_connection

OURS = [f"public.{name}" for name in sorted(Base.metadata.tables)]


async def attack(
    url: URL, *tables: str, scope: Scope | None = None
) -> tuple[dict[tuple[str, str], Attempt], list[Finding]]:
    """Try everything on ``tables``; the attempts by table and operation."""
    engine = create_engine(url, pool_class=NullPool)
    try:
        async with engine.connect() as connection:
            attempts, findings = await try_crossings(connection, scope or Scope(), tables or OURS)
    finally:
        await engine.dispose()
    return {(each.table, each.operation): each for each in attempts}, findings


async def test_a_fresh_database_keeps_every_tenant_apart(urls: Urls) -> None:
    """On a migrated database every operation on every table is tried, and none crosses."""
    cells, findings = await attack(urls.admin)
    assert findings == []
    assert {each.outcome for each in cells.values()} == {"kept apart"}
    assert list(cells) == [(table, o) for table in OURS for o in OPERATIONS if o != "catalog"]
