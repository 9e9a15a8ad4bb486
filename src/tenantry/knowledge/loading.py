"""Bulk loading of chunks by a tenant's session, under row security.

PostgreSQL refuses COPY FROM on a table under row security, and the application's role may not make
the temporary table that would lead around it. So rows go as arrays, in binary, by one prepared
INSERT … SELECT unnest(…): policies, constraints and keys see each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import ARRAY, any_, func, literal, select, text
from sqlalchemy.exc import DBAPIError

from tenantry.errors import (
    ConflictError,
    DatabaseUnavailableError,
    DocumentUnknownError,
    InvalidValueError,
    ReadOnlyError,
    SessionUseError,
)
from tenantry.knowledge.chunks import (
    POSITION_MAX,
    Batch,
    Chunk,
    ChunkSource,
    Reader,
    as_document_id,
)
from tenantry.schema import KnowledgeChunk, KnowledgeDocument
from tenantry.schema.base import uuid7
from tenantry.tenancy.catalog import quote
from tenantry.tenancy.connecting import translate
from tenantry.tenancy.sessions import TenantSession

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["BATCH_SIZE", "load_chunks", "require_tenant"]

BATCH_SIZE: Final = 200
"""Rows per statement. 200 vectors of 1,024 dimensions, 0.8 MB, stay in a processor's cache."""

_ROWS_AT_A_TIME: Final = 8
"""Rows read and checked before the event loop has its turn, which feeds the statement under way."""

_DOCUMENTS_KEPT: Final = 10_000
"""Documents whose next free position is remembered; others are looked up again."""

_POSITION_KEY: Final = "knowledge_chunks_tenant_id_document_id_position_key"
_DOCUMENT_KEY: Final = "knowledge_chunks_tenant_id_document_id_fkey"

_SURROUNDINGS: Final = text("""
    SELECT n.nspname AS vector_schema,
           pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool AS read_only
      FROM pg_catalog.pg_extension e
      JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
""")

# unnest() in the select list and not in FROM, where PostgreSQL would first put all rows aside.
_INSERT: Final = """
    INSERT INTO public.knowledge_chunks
           (tenant_id, id, document_id, content, embedding, position)
    SELECT $1::pg_catalog.uuid, unnest($2::pg_catalog.uuid[]), unnest($3::pg_catalog.uuid[]),
           unnest($4::pg_catalog.text[]), unnest($5::{vector}[]), unnest($6::pg_catalog.int4[])
"""


async def load_chunks(
    tx: TenantSession,
    chunks: ChunkSource,
    *,
    document_id: UUID | str | None = None,
    embeddings: Any = None,
    batch_size: int = BATCH_SIZE,
    on_batch: Callable[[int], None] | None = None,
) -> int:
    """Load chunks of one document or of many, in bulk.

    All or nothing: after an error, or when it is cancelled, nothing of this call is there, and the
    transaction can go on. Chunks without a position get the next ones that are free in their
    document. The documents stay locked until the transaction ends, so that two loads into one
    document come one after the other.

    Args:
        tx: A tenant's session.
        chunks: Chunks, or texts alone. They are consumed batch by batch, so memory stays constant.
            An asynchronous iterable may use ``tx`` itself.
        document_id: Whose chunks they are; None: each `Chunk` says so.
        embeddings: The vectors, apart from the chunks and in their order: a two-dimensional array
            of float16, float32 or float64, such as numpy's, or an iterable of vectors.
        batch_size: Rows held in memory, and sent with one statement.
        on_batch: Called with the number of rows of each batch once it is in the table.

    Returns:
        The number of chunks loaded.

    Raises:
        DocumentUnknownError: The tenant has no such document.
        InvalidValueError: A value that cannot be stored; the message names the row, counted from
            0. Or not as many embeddings as chunks.
        ConflictError: A position is taken, or given twice.
        SessionUseError: ``tx`` is not a tenant's session.
        ReadOnlyError: ``tx`` is read-only.
        DatabaseUnavailableError: The connection was lost.
    """
    require_tenant(tx)
    if batch_size < 1:
        raise InvalidValueError(f"batch_size is {batch_size}; at least 1 is required.")
    given: object = chunks
    if not isinstance(given, Iterable | AsyncIterable) or isinstance(given, str | bytes):
        raise InvalidValueError(
            f"chunks is a {type(chunks).__name__}; an iterable of Chunk or str is required."
        )
    document = None if document_id is None else as_document_id(document_id)
    reader = Reader(document_id=document, embeddings=embeddings)
    await tx.flush()
    connection = await tx.connection()
    async with _prepared(connection) as statement, tx.begin_nested():
        inserting = _Inserting(tx.tenant_id, connection, statement, on_batch)
        places = _Places(tx)
        if document is not None:
            await places.look_up({document})
        load = _Load(reader, places, inserting, batch_size)
        try:
            await load.read(chunks)
        except BaseException:
            await inserting.give_up()
            raise
    return inserting.loaded


def require_tenant(tx: object) -> None:
    """Raise where ``tx`` is bound to no tenant.

    Raises:
        SessionUseError: It is something else than a `TenantSession`.
    """
    if not isinstance(tx, TenantSession):
        raise SessionUseError(
            f"A tenant's session is required; found a {type(tx).__name__}. Open one with "
            "db.tenant()."
        )


class _Load:
    """Reads chunks into a batch while the batch before is being inserted."""

    def __init__(
        self, reader: Reader, places: _Places, inserting: _Inserting, batch_size: int
    ) -> None:
        self._reader = reader
        self._places = places
        self._inserting = inserting
        self._batch_size = batch_size
        self._batch = Batch(0)

    async def read(self, chunks: ChunkSource) -> None:
        if isinstance(chunks, AsyncIterable):
            async for chunk in chunks:
                if await self._add(chunk):
                    # It may use the session, whose connection does one thing at a time.
                    await self._inserting.finish()
        else:
            for chunk in chunks:
                await self._add(chunk)
        self._reader.end()
        await self._send()
        await self._inserting.finish()

    async def _add(self, chunk: Chunk | str) -> bool:
        """Take one chunk; return whether with it a batch was sent."""
        self._reader.add(chunk, self._batch)
        if self._batch.is_full(self._batch_size):
            await self._send()
            return True
        if len(self._batch) % _ROWS_AT_A_TIME == 0:
            await asyncio.sleep(0)
        return False

    async def _send(self) -> None:
        batch = self._batch
        if not batch:
            return
        if new := self._places.unknown(batch):
            await self._inserting.finish()
            await self._places.look_up(new, batch)
        self._places.fill(batch)
        await self._inserting.start(batch)
        self._batch = Batch(batch.first + len(batch))


class _Places:
    """The next free position of each document, which stays locked once it was looked up."""

    def __init__(self, tx: TenantSession) -> None:
        self._tx = tx
        self._next: dict[UUID, int] = {}

    def unknown(self, batch: Batch) -> set[UUID]:
        """Return the documents of ``batch`` that are to be looked up."""
        documents = set(batch.documents)
        new = documents - self._next.keys()
        if new and len(self._next) + len(new) > _DOCUMENTS_KEPT:
            self._next.clear()
            return documents
        return new

    async def look_up(self, documents: set[UUID], batch: Batch | None = None) -> None:
        """Lock documents, and find out where they end.

        Raises:
            DocumentUnknownError: The tenant has no such document.
        """
        wanted = any_(literal(list(documents), ARRAY(KnowledgeDocument.id.type)))
        of_these = KnowledgeDocument.id == wanted
        locked = await self._tx.scalars(
            select(KnowledgeDocument.id)
            .where(of_these)
            .order_by(KnowledgeDocument.id)  # so that two loads do not wait for each other
            .with_for_update(key_share=True)
        )
        missing = documents - set(locked)
        if missing:
            raise _unknown(missing, batch)
        # A statement of its own: it sees what those have added who held the lock before.
        last = (
            select(func.max(KnowledgeChunk.position))
            .where(KnowledgeChunk.document_id == KnowledgeDocument.id)
            .scalar_subquery()
        )
        for document, position in await self._tx.execute(
            select(KnowledgeDocument.id, last).where(of_these)
        ):
            self._next[document] = 0 if position is None else position + 1

    def fill(self, batch: Batch) -> None:
        """Give a position to the rows of ``batch`` that have none.

        Raises:
            InvalidValueError: A document has no higher position left.
        """
        for row, (document, given) in enumerate(zip(batch.documents, batch.positions, strict=True)):
            free = self._next[document]
            position = free if given is None else given
            if position > POSITION_MAX:
                raise InvalidValueError(
                    f"knowledge_chunks, row {batch.first + row}: the document has a chunk at the "
                    f"last position, {POSITION_MAX:,}. Give positions, or replace the document."
                )
            batch.positions[row] = position
            self._next[document] = max(free, position + 1)


def _unknown(missing: set[UUID], batch: Batch | None) -> DocumentUnknownError:
    if batch is None:
        return DocumentUnknownError(f"The tenant has no document {min(missing)}.")
    row = next(at for at, document in enumerate(batch.documents) if document in missing)
    return DocumentUnknownError(
        f"knowledge_chunks, row {batch.first + row}: the tenant has no document "
        f"{batch.documents[row]}. Nothing was written."
    )


class _Inserting:
    """The batch that is in the database's hands."""

    def __init__(
        self,
        tenant_id: UUID,
        connection: AsyncConnection,
        statement: PreparedStatement[Any],
        on_batch: Callable[[int], None] | None,
    ) -> None:
        self.loaded = 0
        self._tenant_id = tenant_id
        self._connection = connection
        self._statement = statement
        self._on_batch = on_batch
        self._running: asyncio.Task[Any] | None = None
        self._batch = Batch(0)

    async def start(self, batch: Batch) -> None:
        """Insert ``batch`` once the one before is in; go on meanwhile."""
        await self.finish()
        ids = [uuid7() for _ in batch.documents]
        columns = (ids, batch.documents, batch.contents, batch.embeddings, batch.positions)
        self._batch = batch
        self._running = asyncio.create_task(self._statement.fetch(self._tenant_id, *columns))
        await asyncio.sleep(0)  # it is under way with the loop's next turn

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
            self._running.cancel()
            await asyncio.wait([self._running])
            if not self._running.cancelled():
                self._running.exception()  # asked for, so that nobody misses it

    async def _refused(self, error: Exception) -> Exception:
        if not isinstance(error, asyncpg.PostgresError) or await _is_lost(self._connection):
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


async def _is_lost(connection: AsyncConnection) -> bool:
    raw = (await connection.get_raw_connection()).driver_connection
    return raw is None or cast("asyncpg.Connection", raw).is_closed()


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


@asynccontextmanager
async def _prepared(connection: AsyncConnection) -> AsyncIterator[PreparedStatement[Any]]:
    """Prepare the INSERT on the driver's connection, in the session's transaction.

    The driver chooses its encoders when a statement is prepared and first used. So vectors go in
    binary through this statement alone: the ORM, which sends them as text, does not notice.
    """
    schema, read_only = (await connection.execute(_SURROUNDINGS)).one()
    if read_only:
        raise ReadOnlyError(
            "This session is read-only, or its server is a replica; write with db.tenant(...) "
            "without read_only."
        )
    raw = cast("asyncpg.Connection", (await connection.get_raw_connection()).driver_connection)
    # A name that is no other's: behind a pooler, others have used this connection of the server.
    name = f"tenantry_{uuid4().hex}"
    try:
        await raw.set_type_codec(
            "vector", schema=schema, encoder=_as_is, decoder=_as_is, format="binary"
        )
        insert = _INSERT.format(vector=f"{quote(schema)}.vector")
        statement = await raw.prepare(insert, name=name)
        await statement.fetch(uuid4(), [], [], [], [], [])
        await raw.reset_type_codec("vector", schema=schema)
    except BaseException as error:
        # To take the codec away needs a query, which a failed transaction refuses.
        await connection.invalidate()
        if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
            raise _translated(error) from error
        raise
    try:
        yield statement
    finally:
        # Where the transaction has failed, or the connection, there is nothing to tidy up.
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await raw.execute(f"DEALLOCATE {name}")


def _as_is(value: bytes) -> bytes:
    return value
