"""Vector indexes by parts: each holds the chunks of a sixteenth of the tenants.

A search finds what one tenant has sooner, and more completely, among few tenants than among all.
See docs/search.md. They are no part of the schema that models declare: a database has them or not,
and searches look for them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from tenantry.errors import MigrationError, TransactionUndoneError
from tenantry.ops.index_catalog import become_the_only_builder, state_of
from tenantry.schema.row_security import OWNER_ROLE
from tenantry.schema.types import EMBEDDING_DIMENSIONS
from tenantry.tenancy.connecting import create_engine

__all__ = ["EF_CONSTRUCTION", "PARTS", "drop_parts", "is_part_index", "make_parts"]

PARTS: Final = 16
"""As many as ``tenantry.search_part`` tells apart."""

EF_CONSTRUCTION: Final = 200
"""How far the build of an index looks for neighbours. With pgvector's 64, one question in fourteen
found nothing of what was nearest among 170,000 vectors: no way of the graph led there."""

_NAME: Final = "knowledge_chunks_embedding_part_{part}_idx"
_IS_PART: Final = re.compile(_NAME.format(part=r"\d{1,2}"))

# The very expressions that tenantry.nearest_chunks asks with, or the planner does not take it.
_CREATE: Final = (
    "CREATE INDEX CONCURRENTLY {name} ON public.knowledge_chunks"
    f" USING hnsw ((public.l2_normalize(embedding)::public.halfvec({EMBEDDING_DIMENSIONS}))"
    f" public.halfvec_ip_ops) WITH (ef_construction = {EF_CONSTRUCTION})"
    " WHERE tenantry.search_part(tenant_id) = {part}"
)
_DROP: Final = "DROP INDEX CONCURRENTLY IF EXISTS public.{name}"

_VALID: Final = text("""
    SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass(:name)
""")

# What one part needs: half the bytes of a vector of full precision, and the graph around it.
_MEMORY: Final = text("""
    SELECT set_config('maintenance_work_mem', greatest(
        pg_size_bytes(current_setting('maintenance_work_mem')) / 1024,
        least(pg_size_bytes(current_setting('effective_cache_size')) / 4096,
              (2800 * greatest(reltuples, 0) / 1024 / 8)::bigint)
    ) || 'kB', false) FROM pg_class WHERE oid = 'public.knowledge_chunks'::regclass
""")


def is_part_index(name: str | None) -> bool:
    """Return whether ``name`` is that of an index by parts."""
    return name is not None and _IS_PART.fullmatch(name) is not None


async def make_parts(
    admin_url: URL, *, on_progress: Callable[[int], None] | None = None
) -> list[str]:
    """Make the indexes that are missing or invalid, while the table is read and written.

    Args:
        admin_url: A role's that may become the owner.
        on_progress: Called with the number of parts that have theirs.

    Returns:
        The names of those that were made.

    Raises:
        MigrationError: A build failed. Those that were made before are in use; run it again.
        ConflictError: Another index of the knowledge tables is being built.
        DatabaseUnavailableError: The server does not answer or refuses the connection.
        PrivilegeError: The role may not become the owner.
    """
    made: list[str] = []
    async with _connection(admin_url) as connection:
        await connection.execute(_MEMORY)
        for part in range(PARTS):
            name = _NAME.format(part=part)
            valid = (await connection.execute(_VALID, {"name": f"public.{name}"})).scalar()
            if not valid:
                await _run(connection, _DROP.format(name=name))
                await _run(connection, _CREATE.format(name=name, part=part))
                made.append(name)
            if on_progress is not None:
                on_progress(part + 1)
    return made


async def drop_parts(admin_url: URL) -> None:
    """Drop the indexes by parts; searches go back to the index of all vectors.

    Raises:
        MigrationError, ConflictError, DatabaseUnavailableError, PrivilegeError: as `make_parts`.
    """
    async with _connection(admin_url) as connection:
        for part in range(PARTS):
            await _run(connection, _DROP.format(name=_NAME.format(part=part)))


async def _run(connection: AsyncConnection, statement: str) -> None:
    try:
        await connection.exec_driver_sql(statement)
    except (DBAPIError, TransactionUndoneError) as error:
        raise MigrationError(
            f"{statement} failed (SQLSTATE {state_of(error)}). Searches go on with what is valid. "
            "See the server's log, and run this again."
        ) from error


@asynccontextmanager
async def _connection(admin_url: URL) -> AsyncIterator[AsyncConnection]:
    """Connect as the owner, without transactions: concurrent builds allow none."""
    engine = create_engine(admin_url, role=OWNER_ROLE, pool_class=NullPool)
    try:
        async with engine.connect() as opened:
            connection = await opened.execution_options(isolation_level="AUTOCOMMIT")
            # Other transactions are waited for: that takes as long as they take.
            for name in ("lock_timeout", "statement_timeout"):
                await connection.exec_driver_sql(f"SET {name} = 0")
            await become_the_only_builder(connection)
            yield connection
    finally:
        await engine.dispose()
