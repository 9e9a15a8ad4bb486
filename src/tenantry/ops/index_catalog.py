"""Which indexes the knowledge tables have, and connections that may work on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from tenantry.errors import (
    ConfigurationError,
    ConflictError,
    MigrationError,
    SchemaMissingError,
    TransactionUndoneError,
)
from tenantry.ops.connections import NOTICE_DEATH
from tenantry.schema.row_security import OWNER_ROLE
from tenantry.tenancy.connecting import create_engine

__all__ = [
    "LEFT_BEHIND",
    "LOCK_NOT_AVAILABLE",
    "KnowledgeIndex",
    "become_the_only_builder",
    "configure",
    "connection_as",
    "find",
    "list_indexes",
    "listed",
    "state_of",
]

LOCK_NOT_AVAILABLE: Final = "55P03"
"""PostgreSQL's SQLSTATE where a lock was waited for in vain."""

_LOCK_TIMEOUT_MS: Final = 5_000

_BUILDING: Final = 0x7E4A_1DE5

# Anybody's locks are shown, but not who works: autovacuum alone has no user, and gives way.
_BUILDER: Final = text("""
    SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE (l.relation IN (to_regclass('public.knowledge_documents'),
                           to_regclass('public.knowledge_chunks'))
            AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
                           'ExclusiveLock', 'AccessExclusiveLock')
            OR l.locktype = 'advisory' AND l.granted
               AND (l.classid, l.objid, l.objsubid) = (0, CAST(:key AS oid), 1))
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND l.pid <> pg_backend_pid() AND a.usesysid IS NOT NULL
     ORDER BY l.relation NULLS FIRST LIMIT 1
""")

LEFT_BEHIND: Final = r"_cc(new|old)\d*$"
"""How the index is named that a failed concurrent rebuild leaves, as a regular expression."""

_INDEXES: Final = text(f"""
    SELECT i.relname AS name, t.relname AS table_name, m.amname AS method,
           x.indisvalid AND x.indisready AS is_valid, x.indisprimary OR x.indisunique AS is_key,
           i.relname ~ '{LEFT_BEHIND}' AS is_left_behind, pg_relation_size(i.oid) AS bytes
      FROM pg_index x
      JOIN pg_class i ON i.oid = x.indexrelid
      JOIN pg_class t ON t.oid = x.indrelid
      JOIN pg_namespace n ON n.oid = t.relnamespace
      JOIN pg_am m ON m.oid = i.relam
     WHERE n.nspname = 'public' AND t.relname IN ('knowledge_documents', 'knowledge_chunks')
     ORDER BY t.relname, i.relname
""")  # noqa: S608 - composed of constants


@dataclass(frozen=True, slots=True)
class KnowledgeIndex:
    """An index of a knowledge table.

    Args:
        name: Its name, in schema ``public``.
        table: The table's.
        method: ``hnsw``, ``gin`` or ``btree``.
        is_valid: False: queries do not use it; a concurrent build has failed, or is under way.
        is_key: It holds a key, so it cannot be dropped.
        is_left_behind: A failed rebuild has left it, beside the one that it was to replace.
        size_bytes: On disk.
    """

    name: str
    table: str
    method: str
    is_valid: bool
    is_key: bool
    is_left_behind: bool
    size_bytes: int


async def list_indexes(admin_url: URL) -> list[KnowledgeIndex]:
    """Return the indexes of the knowledge tables.

    Raises:
        DatabaseUnavailableError: The server does not answer or refuses the connection, as it does
            where the role may not become the owner.
        PrivilegeError: PostgreSQL refuses something else to the role.
        SchemaMissingError: There are no knowledge tables.
        ConflictError: One of them is locked for long.
    """
    async with connection_as(admin_url, role=OWNER_ROLE) as connection:
        return await listed(connection)


async def listed(connection: AsyncConnection) -> list[KnowledgeIndex]:
    """Return the indexes of the knowledge tables.

    Raises:
        SchemaMissingError: There are no such tables.
    """
    found = [
        KnowledgeIndex(
            row.name,
            row.table_name,
            row.method,
            row.is_valid,
            row.is_key,
            row.is_left_behind,
            row.bytes,
        )
        for row in await connection.execute(_INDEXES)
    ]
    if not found:
        raise SchemaMissingError(
            "This database holds no tenantry tables. Run `tenantry db migrate` first."
        )
    return found


async def find(connection: AsyncConnection, name: str) -> KnowledgeIndex:
    """Return the index of this name.

    Raises:
        ConfigurationError: The knowledge tables have none.
    """
    indexes = await listed(connection)
    for index in indexes:
        if index.name == name:
            return index
    raise ConfigurationError(
        f"The knowledge tables have no index {name!r}. They have "
        f"{', '.join(each.name for each in indexes)}."
    )


async def become_the_only_builder(connection: AsyncConnection) -> None:
    """Make sure that nobody builds an index of the knowledge tables, and none of ours begins.

    A concurrent build waits at its end for all who were at work before it, and so for another one
    that waits for its lock: PostgreSQL finds a deadlock, and ends the one that was nearly done.
    Holds until the connection is closed, which the server notices in the midst of a build as well.

    Raises:
        ConflictError: An index is being built, or a table vacuumed, or locked for something else.
    """
    await connection.exec_driver_sql(NOTICE_DEATH)
    turn = text("SELECT pg_try_advisory_lock(:key)")
    is_ours = await connection.scalar(turn, {"key": _BUILDING})
    pid = await connection.scalar(_BUILDER, {"key": _BUILDING})
    if is_ours and pid is None:
        return
    by = "" if pid is None else f" by PostgreSQL's process {pid}"
    gone = "" if pid is None else f" If nobody waits for it, SELECT pg_terminate_backend({pid})."
    raise ConflictError(
        f"An index of the knowledge tables is being built, or a table vacuumed or locked{by}. Two "
        "builds at once would end each other. Wait until it is done; "
        f"pg_stat_progress_create_index shows how far a build is.{gone}"
    )


async def configure(connection: AsyncConnection, name: str, value: str) -> None:
    """Set a setting of this connection."""
    await connection.execute(
        text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
    )


@asynccontextmanager
async def connection_as(admin_url: URL, *, role: str | None) -> AsyncIterator[AsyncConnection]:
    """Connect without a transaction around each statement: concurrent builds allow none.

    Raises:
        ConflictError: A table is locked for long.
        MigrationError: PostgreSQL refused something else that nobody has translated.
    """
    engine = create_engine(admin_url, role=role, pool_class=NullPool)
    try:
        async with engine.connect() as opened:
            connection = await opened.execution_options(isolation_level="AUTOCOMMIT")
            await configure(connection, "lock_timeout", f"{_LOCK_TIMEOUT_MS}ms")
            yield connection
    except (DBAPIError, TransactionUndoneError) as error:
        if (state := state_of(error)) == LOCK_NOT_AVAILABLE:
            raise ConflictError(
                "A table of the knowledge base is locked: by a migration, perhaps. Try again when "
                "that is done."
            ) from error
        raise MigrationError(
            f"PostgreSQL refused this (SQLSTATE {state}). Indexes that were valid are in use as "
            "before. See the server's log."
        ) from error
    finally:
        await engine.dispose()


def state_of(error: DBAPIError | TransactionUndoneError) -> str | None:
    """Return PostgreSQL's SQLSTATE."""
    if isinstance(error, TransactionUndoneError):
        return error.sqlstate
    return getattr(error.orig, "sqlstate", None)
