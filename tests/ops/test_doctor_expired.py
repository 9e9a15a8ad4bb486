"""The doctor notices that nobody cleans up."""

from __future__ import annotations

from datetime import timedelta

import asyncpg

from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.ops.doctor import examine
from tests.conftest import TenantPair, Urls

NAME = "expired-rows"
HOUR, WEEK = timedelta(hours=1), timedelta(days=7)


async def look(urls: Urls) -> list[Diagnosis]:
    """What the doctor says of it."""
    return [each for each in await examine(urls.settings) if each.name == NAME]


async def test_expired_rows_that_pile_up_are_a_warning(
    urls: Urls, tenants: TenantPair, admin: asyncpg.Connection
) -> None:
    """A thousand of all tenants together, a week after their end; and the advice mends it."""
    add = (
        "INSERT INTO sign_in_throttles (tenant_id, id, free_at)"
        " SELECT $1, $2 || n, now() - $4::interval FROM generate_series(1, $3) n"
    )
    await admin.execute(add, tenants.a.id, "a", 600, WEEK)
    await admin.execute(add, tenants.a.id, "new", 5000, HOUR)
    await admin.execute(add, tenants.b.id, "b", 399, WEEK)
    (found,) = await look(urls)
    assert found.state == "ok"
    await admin.execute(
        "INSERT INTO users (tenant_id, email, name) VALUES ($1, 'ada@acme.example', 'Ada')",
        tenants.b.id,
    )
    await admin.execute(
        "INSERT INTO sessions (tenant_id, id, user_id, secret_hash, created_at, expires_at)"
        " SELECT tenant_id, 'old', id, sha256(''), now() - interval '9 days',"
        " now() - interval '8 days' FROM users"
    )
    (found,) = await look(urls)
    assert found.state == "warning"
    assert "`tenantry session prune`" in found.advice


async def test_where_there_is_nothing_to_look_at_there_is_no_line(
    urls: Urls, admin: asyncpg.Connection
) -> None:
    """Without the tables, or without the administrator's URL: others say what is missing."""
    await admin.execute("DROP TABLE sign_in_throttles")
    assert await look(urls) == []
