"""Indexes that are dear to maintain row by row: dropped for a large seed, and built at its end.

Measured on two cores, vectors of 1,024 dimensions: a chunk's entry in the HNSW index takes about
1.5 ms when it comes alone and 0.25 ms when the index is built at once, in memory; 1.1 ms of what
does not fit into memory. The trigrams of a document: 0.6 ms and 0.2 ms. The words of a chunk, 80 of
them: 0.27 ms and 0.09 ms.

What is missing is found by looking, not by remembering: a seed that was killed leaves no note, and
the next one builds what the models declare and the database lacks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from sqlalchemy import Index, Table, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import CreateIndex, DropIndex

from tenantry.database import Database
from tenantry.errors import MigrationError, PrivilegeError, TransactionUndoneError
from tenantry.ops.index_catalog import state_of
from tenantry.ops.index_memory import build_bytes
from tenantry.schema import KnowledgeChunk, KnowledgeDocument
from tenantry.schema.row_security import OWNER_ROLE

__all__ = ["indexes_put_off", "one_seed_at_a_time"]

LEAST_CHUNKS: Final = 5_000
"""New chunks from which it is worth it: 5,000 take 3 s so; a bare COPY with the indexes, 11 s."""

LEAST_SHARE: Final = 0.5
"""New chunks for each that is there, from which it is worth it: the old ones are indexed anew too.
By the figures above, a build that fits into memory gains from 0.2 on, and twofold at 0.5. Beyond
`_MEMORY_MAX`, some 200,000 chunks, it can lose: reckoned, not measured, 200,000 added to 400,000
take 1.6 times as long as with the index in place."""

LOCK_TIMEOUT_MS: Final = 2_000
"""DROP INDEX waits this long for the tables, and everybody else's queries queue behind it."""

_MEMORY_MAX: Final = 1024**3

_LOCK: Final = 0x7E4A_5EED

_OUT_OF_RESOURCES: Final = {"53000", "53100", "53200"}
"""A parallel build has its memory in /dev/shm, of which containers may have little."""

_log = logging.getLogger("tenantry.seed")


@asynccontextmanager
async def one_seed_at_a_time(db: Database, *, on_wait: Callable[[], None]) -> AsyncIterator[None]:
    """Hold the advisory lock of seeds, on a connection of its own.

    A transaction holds it, not a session, so that it also holds behind a pooler in transaction
    mode. That transaction has no snapshot and no id: nothing waits for it but other seeds. Should
    the server end it, two seeds may meet; the indexes are built IF NOT EXISTS all the same.

    Raises:
        ConfigurationError: There is no admin URL.
    """
    # Not from the pool of db: with a pool of one, there would be none left to load with.
    apart = Database(db.settings)
    try:
        async with apart.operator(reason="seed: one at a time") as turn:
            await turn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            if not await turn.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
                on_wait()
                await turn.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            yield
    finally:
        await apart.close()


@asynccontextmanager
async def indexes_put_off(
    db: Database, *, new_chunks: int, on_step: Callable[[str], None]
) -> AsyncIterator[None]:
    """Load within without the costly indexes, if that is worth it; at the end they are there.

    Whatever ends the block, the indexes are built, and a first cancellation does not stop that.
    Indexes that an earlier seed left missing are built too.

    DROP INDEX has the tables to itself (ACCESS EXCLUSIVE) for milliseconds; if it does not get
    them within `LOCK_TIMEOUT_MS`, the indexes stay. Until they are built anew, searches read whole
    tables, and CREATE INDEX takes a SHARE lock: writers of the table wait until it is done.

    Raises:
        MigrationError: An index could not be built. The rows that were committed stay.
    """
    try:
        if await _is_worth_it(db, new_chunks):
            await _drop(db, on_step)
        yield
    finally:
        await _outlast_a_cancellation(_build_missing(db, on_step))


def _costly() -> Iterator[Index]:
    for model in (KnowledgeDocument, KnowledgeChunk):
        indexes = cast("Table", model.__table__).indexes
        for index in sorted(indexes, key=lambda each: str(each.name)):
            if index.dialect_options["postgresql"]["using"] in {"hnsw", "gin"}:
                yield index


async def _is_worth_it(db: Database, new_chunks: int) -> bool:
    if new_chunks < LEAST_CHUNKS:
        return False
    async with db.operator(reason="seed: how much is there?") as tx:
        there = await tx.scalar(select(func.count()).select_from(KnowledgeChunk)) or 0
    return new_chunks > LEAST_SHARE * there


async def _drop(db: Database, on_step: Callable[[str], None]) -> None:
    on_step("dropping indexes")
    try:
        async with db.operator(reason="seed: drop indexes until it is loaded") as tx:
            await _become_owner(tx)
            await _set(tx, "lock_timeout", f"{LOCK_TIMEOUT_MS}ms")
            for index in _costly():
                if await _is_as_declared(tx, index):
                    await tx.execute(DropIndex(index, if_exists=True))
    except PrivilegeError:
        _log.info("not the owner of the tables: loading with all indexes in place")
    except TransactionUndoneError:
        _log.info("the tables are in use: loading with all indexes in place")


async def _become_owner(tx: AsyncSession) -> None:
    await tx.execute(text(f"SET LOCAL ROLE {OWNER_ROLE}"))
    await _set(tx, "search_path", "public")


async def _set(tx: AsyncSession, name: str, value: str) -> None:
    await tx.execute(select(func.set_config(name, value, True)))


async def _is_as_declared(tx: AsyncSession, index: Index) -> bool:
    """Return whether building from the declaration gives back what DROP takes.

    An index that somebody made anew, say with another ``m``, is not ours to drop. Pretty-printed,
    the catalog names only what the search path does not find, as SQLAlchemy does.
    """
    declared = str(CreateIndex(index).compile(dialect=tx.get_bind().dialect))
    shown = select(func.pg_get_indexdef(func.to_regclass(index.name), 0, True))
    return bool(await tx.scalar(shown) == declared.strip())


async def _build_missing(db: Database, on_step: Callable[[str], None]) -> None:
    async with db.operator(reason="seed: are its indexes there?") as tx:
        missing = [
            index
            for index in _costly()
            if await tx.scalar(select(func.to_regclass(f"public.{index.name}").is_(None)))
        ]
    for index in missing:
        on_step(f"rebuilding indexes: {index.name}")
        try:
            await _build(db, index)
        except PrivilegeError:
            _log.warning("%s is missing; `tenantry db push` as the owner makes it", index.name)
        except (DBAPIError, TransactionUndoneError) as error:
            raise MigrationError(
                f"The index {index.name} could not be built (SQLSTATE {state_of(error)}); "
                "rows that were loaded stay. Searches are slow without it. See the server's log, "
                "then run `tenantry db seed` again or `tenantry db push`."
            ) from error


async def _build(db: Database, index: Index) -> None:
    try:
        await _create(db, index, is_parallel=True)
    except DBAPIError as error:
        if state_of(error) not in _OUT_OF_RESOURCES:
            raise
        # Alone and in memory is still faster than in parallel with too little: 36 s beside 64 s.
        await _create(db, index, is_parallel=False)


async def _create(db: Database, index: Index, *, is_parallel: bool) -> None:
    async with db.operator(reason=f"seed: build {index.name}") as tx:
        # Counted as the operator: to the owner, row security shows no rows.
        memory = await _memory_bytes(tx, cast("Table", index.table))
        await _become_owner(tx)
        await _set(tx, "maintenance_work_mem", f"{memory // 1024}kB")
        # Vectors lie in the table's TOAST, so the table itself looks too small for workers: with
        # them 100,000 take 22 s, without 36 s. How many there may be is the server's to say.
        await _set(tx, "min_parallel_table_scan_size", "0")
        if not is_parallel:
            await _set(tx, "max_parallel_maintenance_workers", "0")
        await _set(tx, "lock_timeout", "0")
        await _set(tx, "statement_timeout", "0")
        await tx.execute(CreateIndex(index, if_not_exists=True))


async def _memory_bytes(tx: AsyncSession, table: Table) -> int:
    """Return how much memory a build may have: what it needs, or else what the server can spare.

    A server does not tell its memory. effective_cache_size is what its administrator thinks is
    free for caching, and is 4 GB where nobody thought about it.
    """
    row = (
        await tx.execute(
            select(
                select(func.count()).select_from(table).scalar_subquery(),
                func.pg_size_bytes(func.current_setting("maintenance_work_mem")),
                func.pg_size_bytes(func.current_setting("effective_cache_size")),
            )
        )
    ).one()
    rows, given, cache = map(int, row)
    return max(given, min(build_bytes(rows), cache // 4, _MEMORY_MAX))


async def _outlast_a_cancellation(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end although the task is cancelled once, before it or during it."""
    running = asyncio.create_task(work)
    current = asyncio.current_task()
    if current is None or current.cancelling():
        await running
        return
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise
