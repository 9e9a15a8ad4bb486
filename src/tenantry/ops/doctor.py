"""The doctor: is everything around the walls as it should be? It looks, and changes nothing."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import asyncpg
from sqlalchemy import URL, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from tenantry import __version__
from tenantry.errors import TenantryError
from tenantry.ops.application_role import audited_role
from tenantry.ops.diagnosis.capacity import diagnose_pools
from tenantry.ops.diagnosis.configuration import (
    diagnose_extensions,
    diagnose_server_settings,
    diagnose_session_settings,
)
from tenantry.ops.diagnosis.connection import diagnose_clock, diagnose_encryption, diagnose_pooler
from tenantry.ops.diagnosis.expired import diagnose_expired_rows
from tenantry.ops.diagnosis.history import diagnose_migrations
from tenantry.ops.diagnosis.indexes import diagnose_indexes
from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.ops.diagnosis.roles import diagnose_administrator, diagnose_application_role
from tenantry.ops.diagnosis.vector_search import diagnose_vector_search
from tenantry.ops.diagnosis.versions import diagnose_pgvector, diagnose_postgresql
from tenantry.ops.project import Project
from tenantry.settings import ADMIN_URL, DATABASE_URL, Settings
from tenantry.tenancy.connecting import create_engine, where

__all__ = ["Diagnosis", "examine"]

_LIMIT_SECONDS: Final = 30
"""For each thing that is looked at; a catalog query takes milliseconds."""

_VERSIONS = text("""
    SELECT current_setting('server_version_num')::int AS number,
           current_setting('server_version') AS version,
           (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS installed,
           (SELECT default_version FROM pg_available_extensions WHERE name = 'vector')
               AS available
""")

Look = Callable[[], Awaitable[list[Diagnosis]]]


@dataclass(frozen=True, slots=True)
class _Patient:
    """What is examined, and the connections there are to it."""

    settings: Settings
    project: Project
    processes: int
    app: AsyncConnection | None
    admin: AsyncConnection | None


async def examine(
    settings: Settings | None,
    *,
    project: Project | None = None,
    processes: int = 1,
    tenant_column: str = "tenant_id",
    shared: tuple[str, ...] = (),
) -> list[Diagnosis]:
    """Look at a database and the way to it, and say what is wrong. Nothing is changed.

    What cannot be looked at is a problem by itself, and the rest is still looked at.

    Args:
        settings: Where the database is, with its URLs set; without the admin URL, what only the
            administrator can be asked is left out. None: not known, so no database is looked at.
        project: The user's models and migrations, beside tenantry's.
        processes: How many processes of the application there are, each with a pool.
        tenant_column: As for the audit.
        shared: As for the audit.
    """
    project = project or Project()
    found = [_versions_here()]
    if settings is None:
        return found
    async with (
        _connected("application", settings.database_url, found) as app,
        _connected("administrator", settings.admin_url, found) as admin,
    ):
        patient = _Patient(settings, project, processes, app, admin)
        for name, connection, look in _looks(patient):
            found += await _guarded(name, connection, look)
    url = settings.admin_url if admin is not None else settings.database_url
    if url is not None and (app is not None or admin is not None):
        found += await _guarded(
            "audit",
            None,
            lambda: _audit(url, settings.database_url, project, tenant_column, shared),
        )
    return found


def _versions_here() -> Diagnosis:
    parts = (f"{name} {version(name)}" for name in ("SQLAlchemy", "asyncpg", "alembic"))
    found = f"tenantry {__version__}, Python {platform.python_version()}, {', '.join(parts)}"
    return Diagnosis("tenantry", "ok", found)


@asynccontextmanager
async def _connected(
    who: str, url: URL | None, found: list[Diagnosis]
) -> AsyncIterator[AsyncConnection | None]:
    name = f"{who}-connection"
    if url is None:
        found.append(_no_url(name, who))
        yield None
        return
    # Read-only: what would change something by mistake is refused by the server.
    engine = create_engine(url, pool_class=NullPool).execution_options(postgresql_readonly=True)
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            connection = await engine.connect()
    except TenantryError as error:
        found.append(Diagnosis(name, "problem", str(error)))
        yield None
        return
    except TimeoutError:
        late = f"{where(url)} takes connections and does not answer within {_LIMIT_SECONDS} s"
        found.append(Diagnosis(name, "problem", late, "Look at the server and at what is between."))
        yield None
        return
    found.append(Diagnosis(name, "ok", where(url)))
    try:
        yield connection
    finally:
        await connection.close()


def _no_url(name: str, who: str) -> Diagnosis:
    if who == "administrator":
        return Diagnosis(
            name,
            "ok",
            f"{ADMIN_URL} is not set: no migrations, no operator sessions from here, as it should "
            "be for a process that serves requests",
        )
    return Diagnosis(
        name,
        "problem",
        f"{DATABASE_URL} is not set, and there is no embedded server",
        f"Set {DATABASE_URL}, or run pip install 'tenantry[embedded]'.",
    )


def _looks(patient: _Patient) -> list[tuple[str, AsyncConnection, Look]]:
    looks: list[tuple[str, AsyncConnection, Look]] = []
    settings, app, admin = patient.settings, patient.app, patient.admin
    anybody = admin or app
    if anybody is not None:
        looks += [
            ("versions", anybody, lambda: _versions(anybody)),
            ("extensions", anybody, lambda: diagnose_extensions(anybody)),
            ("migrations", anybody, lambda: diagnose_migrations(anybody, project=patient.project)),
            ("indexes", anybody, lambda: diagnose_indexes(anybody)),
        ]
    if app is not None and settings.database_url is not None:
        url = settings.database_url
        looks += [
            ("application-role", app, lambda: diagnose_application_role(app)),
            ("session-settings", app, lambda: diagnose_session_settings(app)),
            ("encryption", app, lambda: diagnose_encryption(app, url=url)),
            ("pooler", app, lambda: diagnose_pooler(app)),
            ("clock", app, lambda: diagnose_clock(app)),
            ("vector-search", app, lambda: diagnose_vector_search(app)),
            ("pools", app, lambda: _pools(app, patient)),
        ]
    if admin is not None:
        looks += [
            ("administrator-role", admin, lambda: diagnose_administrator(admin)),
            ("expired-rows", admin, lambda: diagnose_expired_rows(admin)),
        ]
    if anybody is not None:
        looks.append(("server-settings", anybody, lambda: diagnose_server_settings(anybody)))
    return looks


async def _versions(connection: AsyncConnection) -> list[Diagnosis]:
    row = (await connection.execute(_VERSIONS)).one()
    today = datetime.now(UTC).date()
    return [
        *diagnose_postgresql(row.number, row.version, today=today),
        *diagnose_pgvector(row.installed, row.available),
    ]


async def _pools(app: AsyncConnection, patient: _Patient) -> list[Diagnosis]:
    return await diagnose_pools(
        app,
        pool_size=patient.settings.pool_size,
        max_overflow=patient.settings.max_overflow,
        processes=patient.processes,
    )


async def _audit(
    url: URL,
    application_url: URL | None,
    project: Project,
    tenant_column: str,
    shared: tuple[str, ...],
) -> list[Diagnosis]:
    from tenantry.ops.audit import audit

    report = await audit(
        url,
        project=project,
        app_role=await audited_role(url, application_url=application_url),
        tenant_column=tenant_column,
        live=False,
        shared=shared,
    )
    if not report.findings and not report.tables:
        return [Diagnosis("audit", "problem", "there are no tables to audit")]
    if not report.findings:
        found = f"nothing found in the catalog; tables: {len(report.tables)}"
        return [Diagnosis("audit", "ok", found)]
    checks = [finding.check for finding in report.findings]
    counted = ", ".join(f"{each} ({checks.count(each)})" for each in dict.fromkeys(checks))
    return [
        Diagnosis(
            "audit",
            "problem",
            f"the catalog has faults: {counted}",
            "`tenantry audit` says what each means, and the SQL that mends it.",
        )
    ]


async def _guarded(name: str, connection: AsyncConnection | None, look: Look) -> list[Diagnosis]:
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            return await look()
    except TenantryError as error:
        return [Diagnosis(name, "problem", str(error))]
    except TimeoutError:
        found = f"no answer within {_LIMIT_SECONDS} s"
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        cause = getattr(error, "orig", None)
        cause = getattr(cause, "__cause__", None) or error
        found = f"{type(cause).__name__}, SQLSTATE {getattr(cause, 'sqlstate', None) or 'none'}"
    finally:
        if connection is not None:
            # A connection that is lost has been reported; the next look opens another.
            with suppress(TenantryError, SQLAlchemyError, TimeoutError):
                async with asyncio.timeout(_LIMIT_SECONDS):
                    await connection.rollback()
    return [Diagnosis(name, "problem", f"could not be looked at: {found}", "Run this again.")]
