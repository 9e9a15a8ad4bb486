"""Indexes of the knowledge base: rebuilding without standing in the way, warming, advice.

Here and not in `tenantry.knowledge`, since it takes the owner of the tables, who is reached by the
administrator's URL; what the application does, it does with its own role.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import URL, Row, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from tenantry.errors import ConfigurationError, ConflictError, InvalidValueError, MigrationError
from tenantry.ops.vector_parts import is_part_index
from tenantry.schema.row_security import OPERATOR_ROLE, OWNER_ROLE
from tenantry.tenancy.catalog import quote
from tenantry.tenancy.connecting import create_engine

__all__ = [
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

_BYTES_PER_VECTOR: Final = 5_000
"""Memory of a vector of 1,024 dimensions in a build: 55,305 filled 256 MB, 4,854 bytes each."""

_LEAST_MEMORY: Final = 1024**2

_POLL_SECONDS: Final = 0.2
_LOCK_TIMEOUT_MS: Final = 5_000
_PREWARM_SAMPLES: Final = 200

# A concurrent build that failed leaves its index behind, invalid, under such a name.
_LEFT_BEHIND: Final = r"_cc(new|old)\d*$"

_INDEXES: Final = text(f"""
    SELECT i.relname AS name, t.relname AS table_name, m.amname AS method,
           x.indisvalid AND x.indisready AS is_valid, x.indisprimary OR x.indisunique AS is_key,
           i.relname ~ '{_LEFT_BEHIND}' AS is_left_behind, pg_relation_size(i.oid) AS bytes
      FROM pg_index x
      JOIN pg_class i ON i.oid = x.indexrelid
      JOIN pg_class t ON t.oid = x.indrelid
      JOIN pg_namespace n ON n.oid = t.relnamespace
      JOIN pg_am m ON m.oid = i.relam
     WHERE n.nspname = 'public' AND t.relname IN ('knowledge_documents', 'knowledge_chunks')
     ORDER BY t.relname, i.relname
""")  # noqa: S608 - composed of constants

_PROGRESS: Final = text("""
    SELECT phase, lockers_total, lockers_done, blocks_total, blocks_done,
           tuples_total, tuples_done
      FROM pg_stat_progress_create_index WHERE pid = :pid
""")

_HAS_PREWARM: Final = text("""
    SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
     WHERE e.extname = 'pg_prewarm'
""")

_MEMORY: Final = text("""
    SELECT pg_size_bytes(current_setting('maintenance_work_mem')) AS given,
           pg_size_bytes(current_setting('shared_buffers')) AS buffers,
           pg_size_bytes(current_setting('effective_cache_size')) AS cache
""")


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
class BuildAdvice:
    """What memory the build of a vector index needs, and has.

    Args:
        table: ``knowledge_documents`` or ``knowledge_chunks``.
        vectors: Vectors in it.
        needed_bytes: What `maintenance_work_mem` should be, so that the graph fits.
        given_bytes: What it is.
        spare_bytes: A quarter of `effective_cache_size`, for want of the machine's memory.
    """

    table: str
    vectors: int
    needed_bytes: int
    given_bytes: int
    spare_bytes: int

    @property
    def is_enough(self) -> bool:
        """Whether the build stays in memory with what is given."""
        return self.given_bytes >= self.needed_bytes

    @property
    def setting(self) -> str:
        """What to set `maintenance_work_mem` to, as PostgreSQL takes it."""
        megabytes = -(-max(self.given_bytes, self.needed_bytes) // 1024**2)
        return f"{megabytes}MB"

    @property
    def sentence(self) -> str:
        """The same for people."""
        needs = f"{self.table}: {self.vectors:,} vectors need {_mb(self.needed_bytes)} to build"
        if self.is_enough:
            return f"{needs}; maintenance_work_mem is {_mb(self.given_bytes)}, which is enough."
        advice = f"{needs}; maintenance_work_mem is {_mb(self.given_bytes)}. Set it to"
        if self.needed_bytes > self.spare_bytes:
            return (
                f"{advice} {self.setting} if the machine has it: by effective_cache_size it can "
                f"spare {_mb(self.spare_bytes)}. What does not fit takes some four times as long."
            )
        return f"{advice} {self.setting} for the build."


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done about an invalid index: it was ``rebuilt``, or what was left ``dropped``."""

    name: str
    action: Literal["rebuilt", "dropped"]


@dataclass(frozen=True, slots=True)
class Warmed:
    """What was read into memory.

    Args:
        name: The index.
        method: ``pg_prewarm``: all of it. ``searches``: the extension is not installed, so as much
            as searches for stored vectors touch.
        size_bytes: Of the whole index.
        does_fit: Whether `shared_buffers` can hold it.
    """

    name: str
    method: Literal["pg_prewarm", "searches"]
    size_bytes: int
    does_fit: bool


async def list_indexes(admin_url: URL) -> list[KnowledgeIndex]:
    """Return the indexes of the knowledge tables.

    Raises:
        DatabaseUnavailableError: The server does not answer or refuses the connection.
        PrivilegeError: The role may not become the owner.
    """
    async with _connection(admin_url, role=OWNER_ROLE) as connection:
        return await _list(connection)


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
        memory_bytes: For the build, from 1 MB; None: what is needed, as far as the machine can
            spare it.

    Raises:
        InvalidValueError: ``memory_bytes`` is less.
        ConfigurationError: The knowledge tables have no index of this name.
        ConflictError: It is what a failed build has left; `mend_indexes` drops it.
        MigrationError: The build failed; the old index is in use as before, and an invalid one may
            be left, which `mend_indexes` drops.
        DatabaseUnavailableError, PrivilegeError: see `list_indexes`.
    """
    if memory_bytes is not None and memory_bytes < _LEAST_MEMORY:
        raise InvalidValueError(
            f"memory_bytes is {memory_bytes}; at least {_LEAST_MEMORY:,} are required, as "
            "PostgreSQL builds no index with less."
        )
    async with _connection(admin_url, role=OWNER_ROLE) as connection:
        index = await _find(connection, name)
        if index.is_left_behind:
            raise ConflictError(
                f"{name} is what a failed build has left; mend_indexes() drops it. Rebuild "
                "the index that it was to replace."
            )
        await _rebuild(admin_url, connection, index, on_progress, memory_bytes)


async def mend_indexes(
    admin_url: URL, *, on_progress: Callable[[BuildProgress], None] | None = None
) -> list[Mended]:
    """Rebuild invalid indexes, and drop what failed rebuilds have left.

    Raises:
        ConflictError: An index is being built, or the table vacuumed: an index may look invalid
            that will be valid.
        MigrationError: A build failed.
        DatabaseUnavailableError, PrivilegeError: see `list_indexes`.
    """
    mended: list[Mended] = []
    async with _connection(admin_url, role=OWNER_ROLE) as connection:
        await _require_nobody_builds(connection)
        for index in await _list(connection):
            if index.is_left_behind and not index.is_valid:
                await _run(
                    connection, f"DROP INDEX CONCURRENTLY IF EXISTS public.{quote(index.name)}"
                )
                mended.append(Mended(index.name, "dropped"))
            elif not index.is_valid:
                await _rebuild(admin_url, connection, index, on_progress)
                mended.append(Mended(index.name, "rebuilt"))
    return mended


async def warm_index(admin_url: URL, name: str) -> Warmed:
    """Read an index into memory, after a restart or a build.

    Raises:
        ConfigurationError: The knowledge tables have no index of this name, or pg_prewarm is not
            installed and it is not the index of all vectors, so that nothing would read it.
        DatabaseUnavailableError, PrivilegeError: see `list_indexes`.
    """
    async with _connection(admin_url, role=None) as connection:
        index = await _find(connection, name)
        buffers = (await connection.execute(_MEMORY)).one().buffers
        schema = await connection.scalar(_HAS_PREWARM)
        if schema is not None:
            await connection.execute(
                text(f"SELECT {quote(schema)}.pg_prewarm(CAST(:index AS regclass))"),
                {"index": f"public.{quote(name)}"},
            )
            return Warmed(name, "pg_prewarm", index.size_bytes, index.size_bytes <= buffers)
        if index.method != "hnsw" or is_part_index(name):
            raise ConfigurationError(
                f"To warm {name} takes pg_prewarm. Let a superuser run CREATE EXTENSION pg_prewarm."
            )
        await connection.exec_driver_sql(f"SET ROLE {OPERATOR_ROLE}")
        await _search(connection, index.table)
        return Warmed(name, "searches", index.size_bytes, index.size_bytes <= buffers)


async def advise(admin_url: URL) -> list[BuildAdvice]:
    """Return what memory building each vector index needs.

    Raises:
        DatabaseUnavailableError, PrivilegeError: see `list_indexes`.
    """
    async with _connection(admin_url, role=None) as connection:
        return [
            await _advise(admin_url, connection, table)
            for table in ("knowledge_documents", "knowledge_chunks")
        ]


async def _advise(admin_url: URL, connection: AsyncConnection, table: str) -> BuildAdvice:
    memory = (await connection.execute(_MEMORY)).one()
    # Counted as the operator: to the owner, row security shows no rows.
    async with _connection(admin_url, role=OPERATOR_ROLE) as operator:
        vectors = await operator.scalar(
            text(f"SELECT count(*) FROM public.{quote(table)} WHERE embedding IS NOT NULL")  # noqa: S608
        )
    # A tenth more, so that the last vectors do not miss it.
    needed = int(vectors or 0) * _BYTES_PER_VECTOR * 11 // 10
    return BuildAdvice(table, int(vectors or 0), needed, memory.given, memory.cache // 4)


async def _search(connection: AsyncConnection, table: str) -> None:
    found = f"""
        SELECT count(*) FROM (SELECT embedding FROM public.{quote(table)}
                               WHERE embedding IS NOT NULL LIMIT {_PREWARM_SAMPLES}) AS sample,
               LATERAL (SELECT 1 FROM public.{quote(table)} AS near
                         ORDER BY near.embedding <=> sample.embedding LIMIT 100) AS found
    """  # noqa: S608 - composed of constants
    for name, value in (("enable_seqscan", "off"), ("hnsw.ef_search", "200")):
        await _set(connection, name, value)
    await connection.execute(text(found))


async def _list(connection: AsyncConnection) -> list[KnowledgeIndex]:
    return [
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


async def _find(connection: AsyncConnection, name: str) -> KnowledgeIndex:
    indexes = await _list(connection)
    for index in indexes:
        if index.name == name:
            return index
    raise ConfigurationError(
        f"The knowledge tables have no index {name!r}. They have "
        f"{', '.join(each.name for each in indexes)}."
    )


async def _require_nobody_builds(connection: AsyncConnection) -> None:
    # The lock of a concurrent build conflicts with itself.
    await connection.exec_driver_sql("BEGIN")
    try:
        await connection.exec_driver_sql(
            "LOCK TABLE public.knowledge_documents, public.knowledge_chunks"
            " IN SHARE UPDATE EXCLUSIVE MODE"
        )
    except DBAPIError as error:
        if _state(error) != "55P03":  # lock_not_available
            raise
        raise ConflictError(
            "An index of the knowledge tables is being built, or a table vacuumed. Wait until it "
            "is done."
        ) from error
    finally:
        await connection.exec_driver_sql("ROLLBACK")


async def _rebuild(
    admin_url: URL,
    connection: AsyncConnection,
    index: KnowledgeIndex,
    on_progress: Callable[[BuildProgress], None] | None,
    memory_bytes: int | None = None,
) -> None:
    if memory_bytes is None and index.method == "hnsw":
        advice = await _advise(admin_url, connection, index.table)
        memory_bytes = max(advice.given_bytes, min(advice.needed_bytes, advice.spare_bytes))
    if memory_bytes is not None:
        await _set(connection, "maintenance_work_mem", f"{memory_bytes // 1024}kB")
    # Vectors may lie in the table's TOAST, so the table itself looks too small for workers.
    await _set(connection, "min_parallel_table_scan_size", "0")
    await _reindex(admin_url, connection, index.name, on_progress)


async def _reindex(
    admin_url: URL,
    connection: AsyncConnection,
    name: str,
    on_progress: Callable[[BuildProgress], None] | None,
) -> None:
    # Other transactions are waited for: that takes as long as they take.
    await _set(connection, "lock_timeout", "0")
    await _set(connection, "statement_timeout", "0")
    pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    work = asyncio.ensure_future(
        _run(connection, f"REINDEX INDEX CONCURRENTLY public.{quote(name)}")
    )
    try:
        # As whoever has logged in: the owner may not see what others do.
        async with _connection(admin_url, role=None) as watching:
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
    except DBAPIError as error:
        raise MigrationError(
            f"{statement} failed (SQLSTATE {_state(error)}). What was valid is in use as before. "
            "See the server's log; mend_indexes() removes what was left."
        ) from error


async def _set(connection: AsyncConnection, name: str, value: str) -> None:
    await connection.execute(
        text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
    )


@asynccontextmanager
async def _connection(admin_url: URL, *, role: str | None) -> AsyncIterator[AsyncConnection]:
    """Connect without a transaction around each statement: concurrent builds allow none."""
    engine = create_engine(admin_url, role=role, pool_class=NullPool)
    try:
        async with engine.connect() as opened:
            connection = await opened.execution_options(isolation_level="AUTOCOMMIT")
            await _set(connection, "lock_timeout", f"{_LOCK_TIMEOUT_MS}ms")
            yield connection
    finally:
        await engine.dispose()


def _state(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _mb(size: int) -> str:
    return f"{size / 1024**2:,.0f} MB"
