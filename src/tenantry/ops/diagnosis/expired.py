"""Whether anybody cleans up what has expired: it opens nothing, and takes room."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.schema.row_security import OPERATOR_ROLE
from tenantry.tenancy.catalog import quote

__all__ = ["diagnose_expired_rows"]

_MANY: Final = 1000
"""Rows that have expired more than a week ago: with a clean-up that runs there is none."""

# The administrator may be kept out by row security where the operator is not.
_POSSIBLE = text("""
    SELECT to_regclass('public.sessions') IS NOT NULL
           AND to_regclass('public.sign_in_throttles') IS NOT NULL
           AND EXISTS (SELECT FROM pg_roles r
                        WHERE r.rolname = :role AND pg_has_role(r.oid, 'SET'))
""")

# Tenant by tenant, along the indexes, and no further than it matters: a table may be large.
_EXPIRED = text("""
    SELECT count(*)
      FROM (SELECT FROM public.tenants t
             CROSS JOIN LATERAL (
                   (SELECT FROM public.sessions s
                     WHERE s.tenant_id = t.id AND s.expires_at < now() - interval '7 days'
                     LIMIT :many)
                   UNION ALL
                   (SELECT FROM public.sign_in_throttles s
                     WHERE s.tenant_id = t.id AND s.free_at < now() - interval '7 days'
                     LIMIT :many)) expired
             LIMIT :many) found
""")


async def diagnose_expired_rows(connection: AsyncConnection) -> list[Diagnosis]:
    """Look for sessions and counted attempts that should be gone; the administrator's connection.

    Where there are no such tables, or the administrator may not become the operator, there is no
    line: others say so.
    """
    if not await connection.scalar(_POSSIBLE, {"role": OPERATOR_ROLE}):
        return []
    await connection.execute(text(f"SET LOCAL ROLE {quote(OPERATOR_ROLE)}"))
    count = await connection.scalar(_EXPIRED, {"many": _MANY}) or 0
    name = "expired-rows"
    if count < _MANY:
        return [Diagnosis(name, "ok", "what has expired is being cleaned up, or is little")]
    return [
        Diagnosis(
            name,
            "warning",
            f"{_MANY:,} or more sessions and counted attempts have expired a week ago",
            "Run `tenantry session prune` once a day.",
        )
    ]
