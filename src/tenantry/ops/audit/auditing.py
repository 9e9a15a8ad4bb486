"""The audit, from end to end: the catalog first, then every crossing tried."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from tenantry.errors import DatabaseUnavailableError, TransactionUndoneError
from tenantry.ops.audit.report import Attempt, AuditReport, Finding
from tenantry.ops.audit.scope import Scope, read_scope
from tenantry.ops.audit.static.checking import findings_on, in_order, read_ground
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.project import Project
from tenantry.tenancy.connecting import create_engine, where

__all__ = ["audit"]

# READ ONLY and short: on a production server it must hold nobody up. With pg_catalog alone on the
# path, PostgreSQL prints every name of a user's with its schema.
_BOUNDS: Final = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "SET LOCAL search_path = pg_catalog",
    "SET LOCAL lock_timeout = '2s'",
    "SET LOCAL statement_timeout = '30s'",
)


_TOO_LONG: Final = "57014"
"""SQLSTATE: no end within statement_timeout."""


async def audit(
    admin_url: URL,
    *,
    project: Project | None = None,
    app_role: str | None = None,
    tenant_column: str = "tenant_id",
    live: bool = True,
    shared: Collection[str] = (),
) -> AuditReport:
    """Audit a database, tenantry's or any other. It changes nothing.

    Args:
        admin_url: For the catalog any role will do. To try crossings it takes one that may become
            the application's role, and make rows for two tenants in a transaction that is always
            rolled back.
        project: The declared tables, where the database is tenantry's.
        app_role: The role that the application connects as; by default ``tenantry_app``.
        tenant_column: The column that says whose row it is.
        live: Try crossings, too.
        shared: Tables that all tenants may read on purpose, qualified or in schema ``public``.

    Raises:
        ConfigurationError: The role does not exist, or has to be named.
        PrivilegeError: A right is missing for the live part; the message says which.
        DatabaseUnavailableError: The server does not answer or refuses the connection, or a
            migration holds a table.
    """
    started = time.perf_counter()
    engine = create_engine(admin_url, pool_class=NullPool)
    try:
        async with engine.connect() as connection:
            async with _catalog(connection):
                scope = await _scope(connection, project, app_role, tenant_column, shared)
                ground = await connection.run_sync(read_ground, scope)
            findings = findings_on(ground)
            tables = _tables(ground)
            attempts = [_of_catalog(table, findings) for table in tables]
            if live:
                from tenantry.ops.audit.live import try_crossings

                tried, crossed = await try_crossings(connection, scope, tables)
                attempts += tried
                findings = in_order([*findings, *(_mended(each, findings) for each in crossed)])
    finally:
        await engine.dispose()
    return AuditReport(
        database=where(admin_url).rpartition("@")[2],
        server_version=ground.snapshot.database.server_version,
        app_role=scope.app_role,
        tables=tuple(tables),
        attempts=tuple(attempts),
        findings=tuple(findings),
        seconds=time.perf_counter() - started,
        live=live,
        notes=_notes(ground, live=live),
    )


@asynccontextmanager
async def _catalog(connection: AsyncConnection) -> AsyncIterator[None]:
    for statement in _BOUNDS:
        await connection.exec_driver_sql(statement)
    try:
        yield
    except (DBAPIError, TransactionUndoneError) as error:
        if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) != _TOO_LONG:
            raise
        raise DatabaseUnavailableError(
            "The catalog could not be read in time: a table is locked, most likely by a migration "
            "that is still running. Nothing was tried. Run the audit again when it has ended."
        ) from error
    finally:
        await connection.rollback()


async def _scope(
    connection: AsyncConnection,
    project: Project | None,
    app_role: str | None,
    tenant_column: str,
    shared: Collection[str],
) -> Scope:
    metadata = (project or Project()).metadata
    return await connection.run_sync(
        lambda sync: read_scope(
            sync, metadata=metadata, app_role=app_role, tenant_column=tenant_column, shared=shared
        )
    )


def _tables(ground: Ground) -> list[str]:
    return sorted(
        table.name
        for table in ground.snapshot.tables
        if not ground.is_expected(table) and not ground.is_sheltered(table)
    )


def _of_catalog(table: str, findings: Sequence[Finding]) -> Attempt:
    found = sorted({each.check for each in findings if each.table == table})
    if found:
        return Attempt(table, "catalog", "crossed", ", ".join(found))
    return Attempt(table, "catalog", "kept apart")


def _mended(crossed: Finding, findings: Sequence[Finding]) -> Finding:
    """Return what a crossing found, mended by what the catalog says is its cause, if it says.

    Two scripts for one cause would trip over each other.
    """
    causes = [each for each in findings if each.table == crossed.table]
    causes = causes or [each for each in findings if each.table is None]
    if not causes:
        return crossed
    return replace(crossed, mend="\n".join(dict.fromkeys(each.mend for each in causes)))


def _notes(ground: Ground, *, live: bool) -> tuple[str, ...]:
    notes = []
    if not ground.scope.is_ours:
        notes.append(
            "This database was not made by tenantry: its tables are judged by themselves, and "
            "not against models."
        )
    if live and ground.scope.tenant_setting is None:
        notes.append(
            "No policy reads a setting, so it is not known how the application tells its tenant, "
            "and nothing was tried."
        )
    if not ground.tenant_tables:
        notes.append(
            f"No table has a column {ground.scope.tenant_column}. Another name is given with "
            "--tenant-column."
        )
    return tuple(notes)
