"""What stands before the first table: roles, extensions, schemas, and who may use them."""

from __future__ import annotations

from typing import Final

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.errors import PrivilegeError
from tenantry.schema.row_security import AUTH_ROLE, OPERATOR_ROLE, OWNER_ROLE
from tenantry.tenancy.connecting import run_script
from tenantry.tenancy.functions import sql_file
from tenantry.tenancy.inspection import check_server

__all__ = ["prepare"]

_WHAT_IT_NEEDS: Final = {
    "roles.sql": "create roles, or become those that are there. Use a superuser or a role with "
    "CREATEROLE; if another administrator has made the roles, let that one run GRANT {roles} TO "
    "this role WITH SET TRUE, INHERIT FALSE",
    "database.sql": "set up the database. It must own the database, and be allowed to create the "
    "extensions vector, pg_trgm and btree_gin: where only a superuser may, let one run CREATE "
    "EXTENSION for each of them here first",
    "schema.sql": "set up the schema tenantry. It must be the schema's owner or {owner}",
}


async def prepare(connection: AsyncConnection) -> None:
    """Make roles, extensions and schemas that are missing, in one transaction. Safe to repeat.

    Raises:
        UnsupportedServerError: PostgreSQL or an extension is missing or too old.
        PrivilegeError: The role may not do it; the message says which right it lacks.
    """
    await check_server(connection)
    await connection.run_sync(_run, "roles.sql")
    await connection.run_sync(_run, "database.sql")
    await connection.exec_driver_sql(f"SET LOCAL ROLE {OWNER_ROLE}")
    await connection.run_sync(_run, "schema.sql")
    await connection.commit()


def _run(connection: Connection, file: str) -> None:
    try:
        run_script(connection, sql_file(file))
    except asyncpg.InsufficientPrivilegeError as error:
        needs = _WHAT_IT_NEEDS[file].format(
            roles=f"{OWNER_ROLE}, {AUTH_ROLE}, {OPERATOR_ROLE}", owner=OWNER_ROLE
        )
        raise PrivilegeError(
            f"The administrator's role may not {needs}. PostgreSQL says: {error.message}."
        ) from error
