"""What stands before the first table: roles, extensions, schemas, and who may use them."""

from __future__ import annotations

from typing import Final

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.errors import PrivilegeError
from tenantry.schema.row_security import APP_ROLE, AUTH_ROLE, OPERATOR_ROLE, OWNER_ROLE
from tenantry.tenancy.catalog import Held, read_schema_grants
from tenantry.tenancy.connecting import run_script
from tenantry.tenancy.functions import sql_file
from tenantry.tenancy.inspection import check_server

__all__ = ["preparation_differences", "prepare"]

_WHAT_IT_NEEDS: Final = {
    "roles.sql": "create roles. Use a superuser or a role with CREATEROLE. If the roles exist, "
    "whoever made them grants you {roles} WITH SET TRUE",
    "database.sql": "set up the database. It must own the database, and be allowed to create the "
    "extensions vector and pg_trgm: where only a superuser may, let one run CREATE EXTENSION "
    "vector and CREATE EXTENSION pg_trgm here first",
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
            roles=f"{OWNER_ROLE}, {AUTH_ROLE} and {OPERATOR_ROLE}", owner=OWNER_ROLE
        )
        raise PrivilegeError(
            f"The administrator's role may not {needs}. PostgreSQL says: {error.message}."
        ) from error


_DANGEROUS = text("""
    SELECT rolname AS name, concat_ws(', ',
               CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END,
               CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
               CASE WHEN rolcreatedb THEN 'CREATEDB' END) AS attributes
      FROM pg_roles
     WHERE rolname = ANY (:roles) AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb)
     ORDER BY 1
""")

# Without a row, the built-in default holds, and it lets PUBLIC execute every new function.
_DEFAULT_EXECUTE = text("""
    SELECT NOT EXISTS (SELECT FROM pg_default_acl d
                        WHERE d.defaclrole = to_regrole(:owner) AND d.defaclobjtype = 'f'
                          AND d.defaclnamespace = 0)
        OR EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a
                    WHERE d.defaclrole = to_regrole(:owner) AND d.defaclobjtype = 'f'
                      AND a.grantee = 0)
""")


_PUBLIC_ON_DATABASE = text("""
    SELECT a.privilege_type AS privilege
      FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
     WHERE d.datname = current_database() AND a.grantee = 0
       AND a.privilege_type IN ('CREATE', 'TEMPORARY') ORDER BY 1
""")


def preparation_differences(connection: Connection) -> list[str]:
    """Return what is not as `prepare` leaves it, a line each."""
    users = (APP_ROLE, AUTH_ROLE, OPERATOR_ROLE)
    declared = {("tenantry", Held(role, "USAGE")) for role in users}
    declared |= {("public", Held(role, "USAGE")) for role in (*users, OWNER_ROLE, "public")}
    declared.add(("public", Held(OWNER_ROLE, "CREATE")))
    found = read_schema_grants(connection, schemas=("public", "tenantry"))
    lines = [
        f"schema {schema}: {each.role} lacks {each.privilege}"
        for schema, each in sorted(declared - found)
    ]
    lines += [
        f"schema {schema}: {each.role} holds {each.privilege}, which is not declared"
        for schema, each in sorted(found - declared)
    ]
    roles = {"roles": [*users, OWNER_ROLE]}
    lines += [
        f"role {row.name} has {row.attributes}, which is not declared"
        for row in connection.execute(_DANGEROUS, roles)
    ]
    # A database copied from a template has not the privileges on the template itself.
    lines += [
        f"database: PUBLIC holds {row.privilege}, which is not declared"
        for row in connection.execute(_PUBLIC_ON_DATABASE)
    ]
    if connection.execute(_DEFAULT_EXECUTE, {"owner": OWNER_ROLE}).scalar_one():
        lines.append(f"default privileges of {OWNER_ROLE}: PUBLIC may execute new functions")
    return lines
