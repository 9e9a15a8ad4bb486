"""Whether the server has room for the application's pools."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.ops.diagnosis.report import Diagnosis

__all__ = ["diagnose_pools"]

# Of other roles' sessions everybody is shown the database and the role, and nothing else. What has
# both is a client's; the server's own processes lack one of them.
_LIMITS = text("""
    SELECT current_setting('max_connections')::int AS most,
           current_setting('superuser_reserved_connections')::int
               + current_setting('reserved_connections')::int AS reserved,
           (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user) AS role_limit,
           (SELECT datconnlimit FROM pg_database WHERE datname = current_database())
               AS database_limit,
           session_user AS role,
           count(*) AS in_use,
           count(*) FILTER (WHERE usename <> session_user) AS others
      FROM pg_stat_activity WHERE datid IS NOT NULL AND usename IS NOT NULL
""")


async def diagnose_pools(
    connection: AsyncConnection, *, pool_size: int, max_overflow: int, processes: int
) -> list[Diagnosis]:
    """Compare what the application may open with what its role may have.

    Args:
        connection: As the application's role.
        pool_size: As in the settings.
        max_overflow: As in the settings.
        processes: How many of them there are, on all machines together.
    """
    row = (await connection.execute(_LIMITS)).one()
    needed = (pool_size + max_overflow) * processes
    limits = [(row.most - row.reserved, f"max_connections {row.most} less {row.reserved} reserved")]
    for limit, whose in ((row.role_limit, f"role {row.role}"), (row.database_limit, "database")):
        if limit is not None and limit >= 0:
            limits.append((limit, f"CONNECTION LIMIT {limit} of the {whose}"))
    room, why = min(limits)
    found = (
        f"{needed} connections at most ({processes} times {pool_size} + {max_overflow}); there is "
        f"room for {room} ({why}); {row.in_use} in use now, {row.others} of them by other roles"
    )
    advice = (
        "Make pool_size and max_overflow smaller, put a pooler such as PgBouncer in between, or "
        "raise the limit. `tenantry doctor --processes N` counts for N processes."
    )
    if needed > room:
        return [Diagnosis("pools", "problem", found, advice)]
    if needed + row.others > room:
        return [Diagnosis("pools", "warning", found, advice)]
    return [Diagnosis("pools", "ok", found)]
