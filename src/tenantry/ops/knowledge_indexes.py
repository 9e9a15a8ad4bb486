"""Indexes of the knowledge base: rebuilding without standing in the way, warming, advice.

Here and not in `tenantry.knowledge`, since it takes the owner of the tables, who is reached by the
administrator's URL; what the application does, it does with its own role.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import URL, Row, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.errors import (
    ConflictError,
    InvalidValueError,
    MigrationError,
    TransactionUndoneError,
)
from tenantry.ops.index_catalog import (
    LOCK_NOT_AVAILABLE,
    KnowledgeIndex,
    become_the_only_builder,
    configure,
    connection_as,
    find,
    list_indexes,
    listed,
    state_of,
)
from tenantry.ops.index_memory import BuildAdvice, Warmed, advice_for, advise, warm_index
from tenantry.schema.row_security import OWNER_ROLE
from tenantry.tenancy.catalog import quote

__all__ = [
    "LEAST_MEMORY",
    "MOST_MEMORY",
    "BuildAdvice",
    "BuildProgress",
    "KnowledgeIndex",
    "Mended",
    "Warmed",
    "advise",
    "list_indexes",
    "mend_indexes",
    "rebuild_index",
    "warm_index",
]

LEAST_MEMORY: Final = 1024**2
"""In bytes; PostgreSQL builds no index with less."""

MOST_MEMORY: Final = 2047 * 1024**3
"""In bytes; PostgreSQL counts kilobytes in 31 bits."""

_POLL_SECONDS: Final = 0.2

_PROGRESS: Final = text("""
    SELECT phase, lockers_total, lockers_done, blocks_total, blocks_done,
           tuples_total, tuples_done
      FROM pg_stat_progress_create_index WHERE pid = :pid
""")


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build has come.

    Args:
        index: Which.
        phase: As PostgreSQL calls it, such as ``building index: loading tuples``.
        fraction: Of this phase, 0 to 1; None: the phase does not count.
    """

    index: str
    phase: str
    fraction: float | None


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done about an invalid index: it was ``rebuilt``, or what was left ``dropped``."""

    name: str
    action: Literal["rebuilt", "dropped"]


async def rebuild_index(
    admin_url: URL,
    name: str,
    *,
    on_progress: Callable[[BuildProgress], None] | None = None,
    memory_bytes: int | None = None,
) -> None:
    """Rebuild an index of the knowledge tables while they are read and written.

    Args:
        admin_url: A role's that may become the owner.
        name: The index.
        on_progress: Called a few times a second.
        memory_bytes: For the build, from 1 MB to 2,047 GB; None: what is needed, as far as the
            machine can spare it.

    Raises:
        InvalidValueError: ``memory_bytes`` is less, or more.
        ConfigurationError: The knowledge tables have no index of this name.
        ConflictError: It is what a failed build has left, which `mend_indexes` drops; or an index
            of the knowledge tables is being built.
        MigrationError: The build failed; the old index is in use as before, and an invalid one may
            be left, which `mend_indexes` drops.
        DatabaseUnavailableError, PrivilegeError, SchemaMissingError: see `list_indexes`.
    """
    if memory_bytes is not None and not LEAST_MEMORY <= memory_bytes <= MOST_MEMORY:
        raise InvalidValueError(
            f"memory_bytes is {memory_bytes}; at least {LEAST_MEMORY:,} and at most "
            f"{MOST_MEMORY:,} are required, as PostgreSQL builds no index with less or more."
        )
    async with connection_as(admin_url, role=OWNER_ROLE) as connection:
        index = await find(connection, name)
        if index.is_left_behind:
            raise ConflictError(
                f"{name} is what a failed build has left; `tenantry knowledge mend` or "
                "mend_indexes() drops it. Rebuild the index that it was to replace."
            )
        await become_the_only_builder(connection)
        await _rebuild(admin_url, connection, index, on_progress, memory_bytes)


async def mend_indexes(
    admin_url: URL, *, on_progress: Callable[[BuildProgress], None] | None = None
) -> list[Mended]:
    """Rebuild invalid indexes, and drop what failed rebuilds have left.

    Raises:
        ConflictError: An index is being built, or a table vacuumed or locked: an index may look
            invalid that will be valid.
        MigrationError: A build failed.
        DatabaseUnavailableError, PrivilegeError, SchemaMissingError: see `list_indexes`.
    """
    mended: list[Mended] = []
    async with connection_as(admin_url, role=OWNER_ROLE) as connection:
        await listed(connection)  # or else the tables may be missing
        await become_the_only_builder(connection)
        for index in await listed(connection):
            if index.is_left_behind and not index.is_valid:
                await _run(
                    connection, f"DROP INDEX CONCURRENTLY IF EXISTS public.{quote(index.name)}"
                )
                mended.append(Mended(index.name, "dropped"))
            elif not index.is_valid:
                await _rebuild(admin_url, connection, index, on_progress)
                mended.append(Mended(index.name, "rebuilt"))
    return mended


async def _rebuild(
    admin_url: URL,
    connection: AsyncConnection,
    index: KnowledgeIndex,
    on_progress: Callable[[BuildProgress], None] | None,
    memory_bytes: int | None = None,
) -> None:
    if memory_bytes is None and index.method == "hnsw":
        advice = await advice_for(admin_url, connection, index.table)
        memory_bytes = max(advice.given_bytes, min(advice.needed_bytes, advice.spare_bytes))
    if memory_bytes is not None:
        await configure(connection, "maintenance_work_mem", f"{memory_bytes // 1024}kB")
    # Vectors may lie in the table's TOAST, so the table itself looks too small for workers.
    await configure(connection, "min_parallel_table_scan_size", "0")
    await _reindex(admin_url, connection, index.name, on_progress)


async def _reindex(
    admin_url: URL,
    connection: AsyncConnection,
    name: str,
    on_progress: Callable[[BuildProgress], None] | None,
) -> None:
    # Other transactions are waited for: that takes as long as they take.
    await configure(connection, "lock_timeout", "0")
    await configure(connection, "statement_timeout", "0")
    pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    work = asyncio.ensure_future(
        _run(connection, f"REINDEX INDEX CONCURRENTLY public.{quote(name)}")
    )
    try:
        # As whoever has logged in: the owner may not see what others do.
        async with connection_as(admin_url, role=None) as watching:
            while not work.done():
                await asyncio.wait([work], timeout=_POLL_SECONDS)
                row = (await watching.execute(_PROGRESS, {"pid": pid})).one_or_none()
                if row is not None and row.phase is not None and on_progress is not None:
                    on_progress(BuildProgress(name, row.phase, _fraction(row)))
        await work
    except BaseException:
        work.cancel()
        await asyncio.wait([work])
        raise


def _fraction(row: Row[tuple[object, ...]]) -> float | None:
    for what in ("tuples", "blocks", "lockers"):
        total = getattr(row, f"{what}_total")
        if total:
            return min(1.0, float(getattr(row, f"{what}_done") / total))
    return None


async def _run(connection: AsyncConnection, statement: str) -> None:
    try:
        await connection.exec_driver_sql(statement)
    except (DBAPIError, TransactionUndoneError) as error:
        if state_of(error) == LOCK_NOT_AVAILABLE:
            raise
        raise MigrationError(
            f"{statement} failed (SQLSTATE {state_of(error)}). What was valid is in use as before. "
            "See the server's log; `tenantry knowledge mend` or mend_indexes() removes what was "
            "left."
        ) from error
