"""Connections as the owner of the tables: alone, to change them, or beside others, to look."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from tenantry.errors import MigrationError, SchemaMissingError, TransactionUndoneError
from tenantry.ops.preparing import prepare
from tenantry.schema.row_security import OWNER_ROLE
from tenantry.tenancy.connecting import create_engine
from tenantry.tenancy.inspection import check_server

__all__ = [
    "LOCK_TIMEOUT_SECONDS",
    "NOTICE_DEATH",
    "Step",
    "inspection_connection",
    "migration_connection",
]

LOCK_TIMEOUT_SECONDS: Final = 5
"""A migration waits this long for a table; longer, and the queries behind it would pile up."""

# Any fixed number that nobody else in the database uses: "tenantry" in ASCII.
_ADVISORY_LOCK: Final = int.from_bytes(b"tenantry") & 0x7FFF_FFFF_FFFF_FFFF

NOTICE_DEATH: Final = """
DO $$ BEGIN
    SET client_connection_check_interval = '1s';
EXCEPTION WHEN OTHERS THEN
    NULL;
END $$
"""
"""Without it, the server goes on with the statement of a program that was killed, and keeps its
locks until it ends. Not every operating system can."""

_IS_MIGRATED: Final = text("""
    SELECT EXISTS (SELECT FROM pg_tables
                    WHERE schemaname = 'public' AND tablename = 'tenants')
""")

Step = Callable[[str], None]
"""Called with one line for each step."""

_log = logging.getLogger("tenantry.migrations")


@asynccontextmanager
async def migration_connection(
    admin_url: URL, *, wait_seconds: float = 300.0, on_step: Step = _log.info
) -> AsyncIterator[AsyncConnection]:
    """Connect as the owner of the tables, alone: others who want the same wait their turn.

    Roles, extensions and schemas are made first if they are missing.

    Raises:
        MigrationError: The lock was not free within ``wait_seconds``.
        DatabaseUnavailableError: The server does not answer or refuses the connection.
        PrivilegeError: The role may not become the owner.
        UnsupportedServerError: PostgreSQL or an extension is missing or too old.
    """
    async with _connection(admin_url) as connection:
        await _lock(connection, wait_seconds, on_step)
        await prepare(connection)
        await _become_owner(connection)
        await connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
        await connection.exec_driver_sql(NOTICE_DEATH)
        await connection.commit()
        yield connection


@asynccontextmanager
async def inspection_connection(admin_url: URL) -> AsyncIterator[AsyncConnection]:
    """Connect as the owner of the tables to look; what is changed is rolled back.

    Raises:
        SchemaMissingError: The database was not migrated.
        DatabaseUnavailableError, PrivilegeError, UnsupportedServerError: as
            `migration_connection`.
    """
    async with _connection(admin_url) as connection:
        await check_server(connection)
        if not await connection.scalar(_IS_MIGRATED):
            raise SchemaMissingError(
                "This database holds no tenantry tables. Run `tenantry db migrate` first."
            )
        await _become_owner(connection)
        await connection.commit()
        yield connection
        await connection.rollback()


@asynccontextmanager
async def _connection(admin_url: URL) -> AsyncIterator[AsyncConnection]:
    engine = create_engine(admin_url, pool_class=NullPool)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _become_owner(connection: AsyncConnection) -> None:
    await connection.exec_driver_sql(f"SET ROLE {OWNER_ROLE}")
    # It decides how the catalog prints names, and where unqualified tables go.
    await connection.exec_driver_sql("SET search_path = public")


async def _lock(connection: AsyncConnection, wait_seconds: float, on_step: Step) -> None:
    # Held by the connection and not by a transaction: each migration commits for itself.
    free = await connection.scalar(
        text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK}
    )
    if not free:
        on_step("another migration is running, waiting for it")
        await connection.exec_driver_sql(f"SET lock_timeout = '{int(wait_seconds * 1000)}ms'")
        try:
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        except TransactionUndoneError as error:
            raise MigrationError(
                f"Another migration of this database did not end within {wait_seconds:g} s. "
                "Nothing was changed. See what it does in pg_stat_activity, then run this again."
            ) from error
    await connection.commit()
