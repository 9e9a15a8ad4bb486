"""Whether the application's role is bound by the walls, and the administrator's can do its work."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.schema.row_security import AUTH_ROLE, OPERATOR_ROLE, OWNER_ROLE
from tenantry.tenancy.inspection import check_application_role

__all__ = ["diagnose_administrator", "diagnose_application_role"]

_BECOMES = text("""
    SELECT current_user AS name, wanted.role,
           r.oid IS NOT NULL AS is_there, pg_has_role(r.oid, 'SET') AS may
      FROM unnest(CAST(:roles AS text[])) WITH ORDINALITY AS wanted (role, place)
      LEFT JOIN pg_roles r ON r.rolname = wanted.role
     ORDER BY wanted.place
""")


async def diagnose_application_role(connection: AsyncConnection) -> list[Diagnosis]:
    """Check what `Database.connect` checks.

    Raises:
        UnsafeRoleError, PrivilegeError, SchemaError: see `check_application_role`.
    """
    await check_application_role(connection)
    name = await connection.scalar(text("SELECT current_user"))
    return [Diagnosis("application-role", "ok", f"{name} is bound by row security")]


async def diagnose_administrator(connection: AsyncConnection) -> list[Diagnosis]:
    """Check whether the administrator may become the roles that own and operate."""
    roles = [OWNER_ROLE, OPERATOR_ROLE, AUTH_ROLE]
    rows = (await connection.execute(_BECOMES, {"roles": roles})).all()
    missing = [row.role for row in rows if not row.is_there]
    barred = [row.role for row in rows if row.is_there and not row.may]
    name = "administrator-role"
    if missing:
        return [
            Diagnosis(
                name,
                "problem",
                f"there is no role {', '.join(missing)}",
                "Run `tenantry db migrate`.",
            )
        ]
    if barred:
        return [
            Diagnosis(
                name,
                "problem",
                f"{rows[0].name} may not become {', '.join(barred)}, so it can neither migrate "
                "nor open operator sessions",
                f"Let whoever has made the roles run GRANT {', '.join(barred)} TO this role WITH "
                "SET TRUE, INHERIT FALSE;",
            )
        ]
    return [Diagnosis(name, "ok", f"{rows[0].name} may become {', '.join(roles)}")]
