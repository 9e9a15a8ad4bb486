"""Memory of the knowledge base's indexes: what a build needs, and reading one into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.errors import ConfigurationError
from tenantry.ops.index_catalog import configure, connection_as, find, listed
from tenantry.ops.vector_parts import is_part_index
from tenantry.schema.row_security import OPERATOR_ROLE, OWNER_ROLE
from tenantry.tenancy.catalog import quote

__all__ = ["BuildAdvice", "Warmed", "advice_for", "advise", "build_bytes", "warm_index"]

_BYTES_PER_VECTOR: Final = 5_000
"""Memory of a vector of 1,024 dimensions in a build: 55,305 filled 256 MB, 4,854 bytes each."""

_PREWARM_SAMPLES: Final = 200

_PREWARM: Final = text("""
    SELECT n.nspname AS schema, has_schema_privilege(n.oid, 'USAGE') AS is_open
      FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
     WHERE e.extname = 'pg_prewarm'
""")

_MEMORY: Final = text("""
    SELECT pg_size_bytes(current_setting('maintenance_work_mem')) AS given,
           pg_size_bytes(current_setting('shared_buffers')) AS buffers,
           pg_size_bytes(current_setting('effective_cache_size')) AS cache
""")


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


async def advise(admin_url: URL) -> list[BuildAdvice]:
    """Return what memory building each vector index needs.

    Raises:
        DatabaseUnavailableError, PrivilegeError, SchemaMissingError, ConflictError: see
            `list_indexes`.
    """
    async with connection_as(admin_url, role=None) as connection:
        await listed(connection)  # or else the tables may be missing
        return [
            await advice_for(admin_url, connection, table)
            for table in ("knowledge_documents", "knowledge_chunks")
        ]


async def advice_for(admin_url: URL, connection: AsyncConnection, table: str) -> BuildAdvice:
    """Return what memory building the vector index of ``table`` needs."""
    memory = (await connection.execute(_MEMORY)).one()
    # Counted as the operator: to the owner, row security shows no rows.
    async with connection_as(admin_url, role=OPERATOR_ROLE) as operator:
        vectors = await operator.scalar(
            text(f"SELECT count(*) FROM public.{quote(table)} WHERE embedding IS NOT NULL")  # noqa: S608
        )
    count = int(vectors or 0)
    return BuildAdvice(table, count, build_bytes(count), memory.given, memory.cache // 4)


def build_bytes(vectors: int) -> int:
    """Return the memory that building an index of so many vectors takes.

    It is a tenth more than measured, so that the last vectors do not miss it.
    """
    return vectors * _BYTES_PER_VECTOR * 11 // 10


async def warm_index(admin_url: URL, name: str) -> Warmed:
    """Read an index into memory, after a restart or a build.

    Raises:
        ConfigurationError: The knowledge tables have no index of this name, or pg_prewarm is not
            installed and it is not the index of all vectors, so that nothing would read it.
        DatabaseUnavailableError, PrivilegeError, SchemaMissingError, ConflictError: see
            `list_indexes`.
    """
    # pg_prewarm asks for rights on what it reads.
    async with connection_as(admin_url, role=OWNER_ROLE) as connection:
        index = await find(connection, name)
        buffers = (await connection.execute(_MEMORY)).one().buffers
        prewarm = (await connection.execute(_PREWARM)).one_or_none()
        if prewarm is not None:
            if prewarm.is_open:
                await _prewarm(connection, prewarm.schema, name)
            else:
                async with connection_as(admin_url, role=None) as login:
                    await _prewarm(login, prewarm.schema, name)
            return Warmed(name, "pg_prewarm", index.size_bytes, index.size_bytes <= buffers)
        if index.method != "hnsw" or is_part_index(name):
            raise ConfigurationError(
                f"To warm {name} takes pg_prewarm. Let a superuser run CREATE EXTENSION pg_prewarm."
            )
        async with connection_as(admin_url, role=OPERATOR_ROLE) as operator:
            await _search(operator, index.table)
        return Warmed(name, "searches", index.size_bytes, index.size_bytes <= buffers)


async def _prewarm(connection: AsyncConnection, schema: str, name: str) -> None:
    await connection.execute(
        text(f"SELECT {quote(schema)}.pg_prewarm(CAST(:index AS regclass))"),
        {"index": f"public.{quote(name)}"},
    )


async def _search(connection: AsyncConnection, table: str) -> None:
    found = f"""
        SELECT count(*) FROM (SELECT embedding FROM public.{quote(table)}
                               WHERE embedding IS NOT NULL LIMIT {_PREWARM_SAMPLES}) AS sample,
               LATERAL (SELECT 1 FROM public.{quote(table)} AS near
                         ORDER BY near.embedding <=> sample.embedding LIMIT 100) AS found
    """  # noqa: S608 - composed of constants
    for name, value in (("enable_seqscan", "off"), ("hnsw.ef_search", "200")):
        await configure(connection, name, value)
    await connection.execute(text(found))


def _mb(size: int) -> str:
    return f"{size / 1024**2:,.0f} MB" if size >= 1024**2 else "less than 1 MB"
