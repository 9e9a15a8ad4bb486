"""What a connection is allowed to be before tenantry works with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.errors import (
    PrivilegeError,
    SchemaError,
    SchemaMissingError,
    SchemaTooNewError,
    UnsafeRoleError,
    UnsupportedServerError,
)
from tenantry.schema.base import SCHEMA_REVISION, Base
from tenantry.schema.row_security import (
    APP_ROLE,
    AUTH_ROLE,
    OPERATOR_ROLE,
    OWNER_ROLE,
    row_security_of,
)

__all__ = [
    "Server",
    "check_application_role",
    "check_server",
    "newer_revisions",
    "require_supported",
]

POSTGRESQL_MINIMUM: Final = 16
PGVECTOR_MINIMUM: Final = (0, 8)
CONTRIB: Final = ("btree_gin", "pg_trgm")
"""What is required of the extensions that PostgreSQL itself comes with."""
REVISION_PREFIX: Final = "tenantry_"

_SERVER = text("""
    SELECT current_setting('server_version_num')::int AS number,
           current_setting('server_version') AS version,
           (SELECT coalesce(i.extversion, a.default_version) FROM pg_available_extensions a
              LEFT JOIN pg_extension i ON i.extname = a.name WHERE a.name = 'vector') AS vector,
           ARRAY(SELECT name::text FROM unnest(CAST(:contrib AS text[])) name
                  WHERE name NOT IN (SELECT a.name FROM pg_available_extensions a)
                  ORDER BY 1) AS missing,
           (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector_installed
""")

# Roles beside which row security means nothing: they see every tenant, read and write files or
# run programs as the server, or own what the walls are made of.
_ABOVE: Final = (
    OWNER_ROLE,
    AUTH_ROLE,
    OPERATOR_ROLE,
    "pg_database_owner",
    "pg_execute_server_program",
    "pg_read_all_data",
    "pg_read_server_files",
    "pg_write_all_data",
    "pg_write_server_files",
)

# MEMBER, not USAGE: a role that can SET ROLE to another can do all that the other can.
_ROLE = text("""
    WITH reachable AS MATERIALIZED (SELECT * FROM pg_roles WHERE pg_has_role(oid, 'MEMBER'))
    SELECT current_user AS name,
           EXISTS (SELECT FROM pg_roles WHERE rolname = :app) AS app_exists,
           (SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = :app) AS is_app,
           ARRAY(SELECT rolname::text FROM reachable WHERE rolsuper ORDER BY 1) AS superusers,
           ARRAY(SELECT rolname::text FROM reachable WHERE rolbypassrls ORDER BY 1) AS bypassing,
           ARRAY(SELECT rolname::text FROM reachable
                  WHERE rolreplication OR rolcreaterole ORDER BY 1) AS powerful,
           ARRAY(SELECT rolname::text FROM reachable
                  WHERE rolname = ANY (:above) ORDER BY 1) AS above,
           ARRAY(SELECT c.relname::text FROM pg_class c
                  WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity
                    AND c.relowner IN (SELECT oid FROM reachable)
                 UNION ALL
                 SELECT 'schema ' || n.nspname FROM pg_namespace n
                  WHERE n.nspname = 'tenantry' AND n.nspowner IN (SELECT oid FROM reachable)
                 UNION ALL
                 SELECT 'function ' || p.proname FROM pg_proc p
                   JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'tenantry'
                  WHERE p.proowner IN (SELECT oid FROM reachable)
                  ORDER BY 1 LIMIT 3) AS owned,
           ARRAY(SELECT c.relname::text FROM pg_class c
                  WHERE c.relnamespace = to_regnamespace('public') AND c.relname = ANY (:walled)
                    AND c.relkind IN ('r', 'p')
                    AND NOT (c.relrowsecurity AND c.relforcerowsecurity) ORDER BY 1) AS open,
           to_regclass('public.tenants') IS NOT NULL AS has_schema
""")


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself.

    Args:
        number: As ``server_version_num``, 160004 for 16.4.
        version: As people write it.
        vector: Version of pgvector in this database, or else the one that can be created.
        missing: Which of `CONTRIB` cannot be created.
        vector_installed: Version of pgvector in this database.
    """

    number: int
    version: str
    vector: str | None
    missing: list[str]
    vector_installed: str | None


async def check_server(connection: AsyncConnection) -> None:
    """Check the versions of PostgreSQL and of what it can load.

    Raises:
        UnsupportedServerError: PostgreSQL before 16, pgvector missing or before 0.8, or pg_trgm
            or btree_gin missing.
    """
    found = await connection.execute(_SERVER, {"contrib": list(CONTRIB)})
    require_supported(Server(*found.one()))


def require_supported(server: Server) -> None:
    """Raise where ``server`` is not what `check_server` asks for.

    Raises:
        UnsupportedServerError: see `check_server`.
    """
    if server.number // 10000 < POSTGRESQL_MINIMUM:
        raise UnsupportedServerError(
            f"This is PostgreSQL {server.version}; {POSTGRESQL_MINIMUM} or newer is required. "
            "Upgrade the server or use another."
        )
    required = ".".join(map(str, PGVECTOR_MINIMUM))
    if server.vector is None:
        raise UnsupportedServerError(
            f"pgvector is not installed on this server; {required} or newer is required. Install "
            "its package (on Debian postgresql-NN-pgvector) or enable it with your provider."
        )
    if tuple(map(int, server.vector.split(".")[:2])) < PGVECTOR_MINIMUM:
        mend = (
            "Install a newer package, then run ALTER EXTENSION vector UPDATE."
            if server.vector_installed
            else "Install a newer package."
        )
        raise UnsupportedServerError(
            f"pgvector here is {server.vector}; {required} or newer is required. {mend}"
        )
    if server.missing:
        verb = "is" if len(server.missing) == 1 else "are"
        raise UnsupportedServerError(
            f"{' and '.join(server.missing)} {verb} not installed on this server and {verb} "
            "required. Install PostgreSQL's contrib package."
        )


async def check_application_role(connection: AsyncConnection) -> None:
    """Check that row security stands, and that the connected role is bound by it.

    Raises:
        UnsafeRoleError: The role is, or can become, a superuser, one with BYPASSRLS, REPLICATION
            or CREATEROLE, an owner of the tables, the functions or the database, the operator,
            or a predefined role that reads everything or acts as the server.
        PrivilegeError: The role does not have the rights of ``tenantry_app``.
        SchemaMissingError: The database was not migrated.
        SchemaTooNewError: It was migrated by a newer tenantry.
        SchemaError: Row security is off, or not forced, on a table that declares it.
    """
    walled = [table.name for table in Base.metadata.sorted_tables if _is_walled(table)]
    arguments = {"app": APP_ROLE, "above": list(_ABOVE), "walled": walled}
    row = (await connection.execute(_ROLE, arguments)).one()
    use = f"Connect as {APP_ROLE}, or as a role that has only been granted {APP_ROLE}."
    for found, what in (
        (row.superusers, "a superuser, whom row security does not bind"),
        (row.bypassing, "a role with BYPASSRLS"),
        (row.powerful, "a role with REPLICATION or CREATEROLE"),
        (row.above, "a role that may see every tenant"),
    ):
        if found:
            verb = "is" if found == [row.name] else f"can become {found[0]},"
            raise UnsafeRoleError(
                f"The application connects as {row.name}, which {verb} {what}. {use}"
            )
    if row.owned:
        raise UnsafeRoleError(
            f"The application connects as {row.name}, which owns {', '.join(row.owned)} and "
            f"could switch row security off. {use}"
        )
    if not row.app_exists or not row.has_schema:
        raise SchemaMissingError(
            "This database holds no tenantry tables. Run `tenantry db migrate` first."
        )
    if not row.is_app:
        raise PrivilegeError(
            f"The application connects as {row.name}, which has not the rights of {APP_ROLE}. "
            f'Run: GRANT {APP_ROLE} TO "{row.name}";'
        )
    if row.open:
        raise SchemaError(
            f"Row security is off or not forced on {', '.join(row.open)}, so tenants are not kept "
            "apart there. `tenantry db check` says what differs."
        )
    applied = (
        await connection.execute(text("SELECT version_num FROM tenantry.alembic_version"))
    ).scalars()
    newer = newer_revisions(applied)
    if newer:
        raise SchemaTooNewError(
            f"This database was migrated to {newer[0]} by a newer tenantry; this one knows up to "
            f"{SCHEMA_REVISION}. Install the newer tenantry."
        )


def _is_walled(table: Table) -> bool:
    declared = row_security_of(table)
    return declared is not None and declared.enabled and declared.forced


def newer_revisions(applied: Iterable[str]) -> list[str]:
    """Return those of the ``applied`` revisions that are ours and newer than this version."""
    return sorted(
        each for each in applied if each.startswith(REVISION_PREFIX) and each > SCHEMA_REVISION
    )
