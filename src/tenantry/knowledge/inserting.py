"""The INSERT of bulk loading, under way while the next rows are read.

Rows go in binary by a prepared INSERT of several rows, and the driver sends a batch of them
without waiting for an answer in between. Cancelled while it sends, its executemany() waits for ever
(asyncpg 0.32). So it is not made to wait while it sends, see `_never_paused`, and not cancelled
before all is sent.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tenantry.errors import (
    ConflictError,
    DatabaseUnavailableError,
    DocumentUnknownError,
    ReadOnlyError,
    SessionUseError,
)
from tenantry.knowledge.chunks import Batch
from tenantry.schema.base import uuid7
from tenantry.tenancy.catalog import quote
from tenantry.tenancy.connecting import translate
from tenantry.tenancy.driver import bound
from tenantry.tenancy.fetching import IN_USE

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Inserting", "prepared"]

_ROWS_PER_INSERT: Final = 32
"""Rows of one statement, 150 kB: a socket's buffer holds the next one while this one is run."""

_SEND_BUFFER_BYTES: Final = 1 << 20
"""Of a Unix socket. From the usual 208 kB, the server would wait for the end of every other one."""

_NO_LIMIT: Final = 1 << 30
"""Bytes; more than a batch can have, and what an int of C can hold, which uvloop makes of it."""

_POSITION_KEY: Final = "knowledge_chunks_tenant_id_document_id_position_key"
_DOCUMENT_KEY: Final = "knowledge_chunks_tenant_id_document_id_fkey"

_SURROUNDINGS: Final = text("""
    SELECT n.nspname AS vector_schema,
           pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool AS read_only
      FROM pg_catalog.pg_extension e
      JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
""")

_INSERT: Final = """
    INSERT INTO public.knowledge_chunks
           (tenant_id, id, document_id, content, embedding, position, language)
"""

# Any number of rows, as arrays. To put them into arrays costs the driver more than it takes to send
# as many parameters, so this is for the rows that are left over.
_REST: Final = """
    SELECT $1::pg_catalog.uuid, unnest($2::pg_catalog.uuid[]), unnest($3::pg_catalog.uuid[]),
           unnest($4::pg_catalog.text[]), unnest($5::{vector}[]), unnest($6::pg_catalog.int4[]),
           unnest($7::pg_catalog.text[])
"""

# glibc gives memory back to the system as soon as 128 kB at the heap's end are free, and an insert
# into a vector index takes and frees more for each row: 150 pages that the system clears each time.
# A process that has once freed a block of 2 MB keeps up to 4 MB.
_KEEP_MEMORY: Final = """
    SELECT pg_catalog.length(pg_catalog.repeat(pg_catalog.repeat(' ', 1000), 2000))
"""

_KEPT: Final = "_tenantry_knowledge_inserts"
"""Under this name, the driver's connection keeps what is prepared on it."""

_COLUMNS: Final = 6
"""Parameters of a row; the tenant is one for all rows."""

_Values: TypeAlias = Sequence[Any]
"""Of one statement's parameters."""


class Inserting:
    """The batch that is in the database's hands."""

    def __init__(
        self,
        tenant_id: UUID,
        connection: AsyncConnection,
        inserts: Inserts,
        on_batch: Callable[[int], None] | None,
    ) -> None:
        self.loaded = 0
        self._tenant_id = tenant_id
        self._connection = connection
        self._inserts = inserts
        self._on_batch = on_batch
        self._running: asyncio.Task[None] | None = None
        self._is_sent = asyncio.Event()
        self._batch = Batch(0)

    async def start(self, batch: Batch) -> None:
        """Insert ``batch`` once the one before is in; go on meanwhile."""
        # Made ready while the database has the one before: between two it has nothing to do.
        columns = (
            [uuid7() for _ in batch.documents],
            batch.documents,
            batch.contents,
            batch.embeddings,
            batch.positions,
            batch.languages,
        )
        rows = zip(*columns, strict=True)
        many = [
            (self._tenant_id, *chain.from_iterable(islice(rows, _ROWS_PER_INSERT)))
            for _ in range(len(batch) // _ROWS_PER_INSERT)
        ]
        left = len(batch) % _ROWS_PER_INSERT
        rest = (self._tenant_id, *(each[-left:] for each in columns)) if left else None
        await self.finish()
        self._batch = batch
        self._is_sent.clear()
        self._running = asyncio.create_task(self._insert(many, rest))
        await asyncio.sleep(0)  # it is under way with the loop's next turn

    async def _insert(self, many: Sequence[_Values], rest: _Values | None) -> None:
        try:
            if many:
                await self._inserts.many.executemany(self._all_of(many))
            self._is_sent.set()
            if rest is not None:
                await self._inserts.rest.fetch(*rest)
        finally:
            self._is_sent.set()

    def _all_of(self, many: Sequence[_Values]) -> Iterator[_Values]:
        yield from many
        self._is_sent.set()  # the driver awaits nothing any more but the answer

    async def finish(self) -> None:
        """Wait until the batch is in."""
        if self._running is None:
            return
        try:
            await self._running
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise await self._refused(error) from error
        self._running = None
        self.loaded += len(self._batch)
        if self._on_batch is not None:
            self._on_batch(len(self._batch))

    async def give_up(self) -> None:
        """Leave nothing under way on the connection."""
        if self._running is not None:
            while not self._is_sent.is_set():  # which takes milliseconds; see the module
                with suppress(asyncio.CancelledError):
                    await self._is_sent.wait()
            self._running.cancel()
            await asyncio.wait([self._running])
            if not self._running.cancelled():
                self._running.exception()  # asked for, so that nobody misses it

    async def _refused(self, error: Exception) -> Exception:
        if (
            not isinstance(error, asyncpg.PostgresError)
            or (await _driver(self._connection)).is_closed()
        ):
            await self._connection.invalidate()
            return _translated(error)
        constraint = error.as_dict().get("constraint_name")
        if constraint == _POSITION_KEY:
            return _taken(self._batch)
        if constraint == _DOCUMENT_KEY:
            return DocumentUnknownError(f"{_rows(self._batch)}: a document is not there any more.")
        return _translated(error)


def _translated(error: Exception) -> Exception:
    if not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.InterfaceError):
        return DatabaseUnavailableError(
            f"The connection was lost while chunks were loaded ({type(error).__name__}). Nothing "
            "uncommitted was kept."
        )
    return translate(error) or DBAPIError(
        "INSERT INTO knowledge_chunks", None, error, hide_parameters=True
    )


async def _driver(connection: AsyncConnection) -> asyncpg.Connection:
    return cast("asyncpg.Connection", (await connection.get_raw_connection()).driver_connection)


def _rows(batch: Batch) -> str:
    return f"knowledge_chunks, rows {batch.first} to {batch.first + len(batch) - 1}"


def _taken(batch: Batch) -> ConflictError:
    seen: dict[tuple[UUID, int | None], int] = {}
    for row, place in enumerate(
        zip(batch.documents, batch.positions, strict=True), start=batch.first
    ):
        if place in seen:
            return ConflictError(
                f"knowledge_chunks, row {row}: position {place[1]} of document {place[0]} is row "
                f"{seen[place]}'s already. Give each position once, or none. Nothing was written."
            )
        seen[place] = row
    return ConflictError(
        f"{_rows(batch)}: a position is taken by a chunk of the document that is there already. "
        "Leave positions out, to append, or replace the document. Nothing was written."
    )


class Inserts(NamedTuple):
    """The INSERT of `_ROWS_PER_INSERT` rows, and that of any number."""

    many: PreparedStatement[Any]
    rest: PreparedStatement[Any]


@asynccontextmanager
async def prepared(connection: AsyncConnection) -> AsyncIterator[Inserts]:
    """Yield both, prepared on the driver's connection, in the session's transaction.

    On a connection of one's own they stay: to prepare them takes longer than to load ten chunks.

    Raises:
        ReadOnlyError: The transaction is read-only.
    """
    schema, read_only = (await connection.execute(_SURROUNDINGS)).one()
    if read_only:
        raise ReadOnlyError(
            "This session is read-only, or its server is a replica; write with db.tenant(...) "
            "without read_only."
        )
    raw = await _driver(connection)
    stay = connection.engine.url.query.get("prepared_statement_cache_size") != "0"
    kept: Inserts | None = vars(raw).get(_KEPT) if stay else None
    # Names that are no others': behind a pooler, others have used this connection of the server.
    names = (f"tenantry_{uuid4().hex}", f"tenantry_{uuid4().hex}")
    inserts = kept or await _prepared_now(connection, raw, schema, names)
    vars(raw)[_KEPT] = inserts if stay else None
    try:
        with _never_paused(raw):
            yield inserts
    except BaseException:
        # It may be that they were to blame: somebody can have taken them away.
        vars(raw)[_KEPT] = None
        raise
    finally:
        if not stay:
            # Where the transaction has failed, or the connection, there is nothing to tidy up.
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await raw.execute(";".join(f"DEALLOCATE {each}" for each in names))


@contextmanager
def _never_paused(raw: asyncpg.Connection) -> Iterator[None]:
    """Take whatever the driver sends at once; its own limit is 64 kB that are not on their way.

    There is no public way to its transport. What is kept here is a batch at most.
    """
    transport: asyncio.WriteTransport = raw._transport  # type: ignore[attr-defined]  # noqa: SLF001
    transport.set_write_buffer_limits(high=_NO_LIMIT)
    line: socket.socket = transport.get_extra_info("socket")
    if line.family == getattr(socket, "AF_UNIX", None):  # which Windows has not
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    try:
        yield
    finally:
        if not raw.is_closed():
            transport.set_write_buffer_limits()


async def _prepared_now(
    connection: AsyncConnection, raw: asyncpg.Connection, schema: str, names: tuple[str, str]
) -> Inserts:
    try:
        return await _prepare(raw, schema, names)
    except BaseException as error:
        in_use = isinstance(error, asyncpg.InterfaceError) and not raw.is_closed()
        if in_use and _takes_vectors(raw):
            raise SessionUseError(IN_USE) from error
        # To take the codec away needs a query, which a failed transaction refuses.
        await connection.invalidate()
        if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
            raise _translated(error) from error
        raise


async def _prepare(raw: asyncpg.Connection, schema: str, names: tuple[str, str]) -> Inserts:
    """Prepare the statements so that they take vectors in binary.

    Our connections do so anyway, but behind a pooler. There the encoder is set for these statements
    alone: the driver chooses it when it prepares one, and the ORM sends vectors as text.
    """
    is_set = _takes_vectors(raw)
    if not is_set:
        await raw.set_type_codec(
            "vector", schema=schema, encoder=_as_is, decoder=_as_is, format="binary"
        )
    await raw.fetch(_KEEP_MEMORY)
    inserts = Inserts(
        await raw.prepare(_INSERT + _values(), name=names[0]),
        await raw.prepare(_INSERT + _REST.format(vector=f"{quote(schema)}.vector"), name=names[1]),
    )
    if not is_set:
        await raw.reset_type_codec("vector", schema=schema)
    return inserts


def _takes_vectors(raw: asyncpg.Connection) -> bool:
    driver = bound(raw)
    return driver is not None and driver.binary_vectors


def _values() -> str:
    rows = (
        f"($1, {', '.join(f'${first + column}' for column in range(_COLUMNS))})"
        for first in range(2, 2 + _ROWS_PER_INSERT * _COLUMNS, _COLUMNS)
    )
    return f"VALUES {', '.join(rows)}"


def _as_is(value: bytes) -> bytes:
    return value
