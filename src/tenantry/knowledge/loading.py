"""Bulk loading of chunks by a tenant's session, under row security.

PostgreSQL refuses COPY FROM on a table under row security, and the application's role may not make
the temporary table that would lead around it; see `tenantry.knowledge.inserting` for what is done
instead.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, any_, func, literal, select
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from tenantry.errors import (
    DocumentUnknownError,
    InvalidValueError,
    SessionUseError,
)
from tenantry.knowledge.chunks import (
    POSITION_MAX,
    Batch,
    Chunk,
    ChunkSource,
    Reader,
    as_document_id,
    shown,
)
from tenantry.knowledge.inserting import Inserting, prepared
from tenantry.schema import KnowledgeChunk, KnowledgeDocument
from tenantry.tenancy.fetching import in_use
from tenantry.tenancy.sessions import TenantSession

__all__ = ["BATCH_SIZE", "load_chunks", "require_tenant"]

BATCH_SIZE: Final = 512
"""Rows that are read before they are sent: 2 MB of vectors, and as many that are on their way."""

_FIRST_BATCH: Final = 64
"""Rows of the first batch, so that the server has something to do soon; the next ones double."""

_ROWS_AT_A_TIME: Final = 8
"""Rows read and checked before the event loop has its turn, which feeds the statement under way."""

_DOCUMENTS_KEPT: Final = 10_000
"""Documents whose next free position is remembered; others are looked up again."""


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

    All or nothing: after an error, or when it is cancelled, nothing of this call is there, and
    the transaction can go on. Only where it is cancelled while it looks documents up, as it does at
    its beginning, the transaction is lost, as with any query that is cancelled.

    Chunks without a position get the next ones that are free in their document. The documents stay
    locked until the transaction ends, so that two loads into one document come one after the other.

    Args:
        tx: A tenant's session.
        chunks: Chunks, or texts alone. They are consumed batch by batch, so memory stays constant.
            An asynchronous iterable may use ``tx`` itself.
        document_id: Whose chunks they are; None: each `Chunk` says so.
        embeddings: The vectors, apart from the chunks and in their order: a two-dimensional array
            of float16, float32 or float64, such as numpy's, or an iterable of vectors.
        batch_size: At most so many rows are gathered before they are sent; the first batches are
            smaller.
        on_batch: Called with the number of rows of each batch once it is in the table.

    Returns:
        The number of chunks loaded.

    Raises:
        DocumentUnknownError: The tenant has no such document.
        InvalidValueError: A value that cannot be stored; the message names the row, counted from
            0. Or not as many embeddings as chunks.
        ConflictError: A position is taken, or given twice.
        SessionUseError: ``tx`` is not a tenant's session, or another task is using it.
        ReadOnlyError: ``tx`` is read-only.
        TransactionUndoneError: Another transaction was in the way.
        DatabaseUnavailableError: The connection was lost.
    """
    require_tenant(tx)
    _check_options(batch_size, on_batch)
    given: object = chunks
    if not isinstance(given, Iterable | AsyncIterable) or isinstance(given, str | bytes | Mapping):
        raise InvalidValueError(
            f"chunks is a {type(chunks).__name__}; an iterable of Chunk or str is required."
        )
    document = None if document_id is None else as_document_id(document_id)
    reader = Reader(document_id=document, embeddings=embeddings)
    try:
        return await _loaded(tx, chunks, reader, document, batch_size, on_batch)
    except (DBAPIError, InvalidRequestError) as error:
        if (taken := in_use(tx, error)) is not None:
            raise taken from error
        raise


async def _loaded(
    tx: TenantSession,
    chunks: ChunkSource,
    reader: Reader,
    document: UUID | None,
    batch_size: int,
    on_batch: Callable[[int], None] | None,
) -> int:
    await tx.flush()
    connection = await tx.connection()
    async with prepared(connection) as inserts, tx.begin_nested():
        inserting = Inserting(tx.tenant_id, connection, inserts, on_batch)
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


def _check_options(batch_size: object, on_batch: object) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
        found = f"a {type(batch_size).__name__}"
    elif batch_size < 1:
        found = shown(batch_size)
    else:
        found = None
    if found is not None:
        raise InvalidValueError(f"batch_size is {found}; a whole number from 1 on is required.")
    if inspect.iscoroutinefunction(on_batch):
        raise InvalidValueError(
            "on_batch is a coroutine function; a plain one is required, which nobody has to await."
        )
    if on_batch is not None and not callable(on_batch):
        raise InvalidValueError(
            f"on_batch is a {type(on_batch).__name__}; a function that takes the number of rows "
            "is required."
        )


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
        self, reader: Reader, places: _Places, inserting: Inserting, batch_size: int
    ) -> None:
        self._reader = reader
        self._places = places
        self._inserting = inserting
        self._most = batch_size
        self._batch_size = min(batch_size, _FIRST_BATCH)
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
        self._batch_size = min(self._most, 2 * self._batch_size)


class _Places:
    """The next free position of each document, and its language.

    Once it was looked up, a document stays locked.
    """

    def __init__(self, tx: TenantSession) -> None:
        self._tx = tx
        self._next: dict[UUID, int] = {}
        self._language: dict[UUID, str] = {}

    def unknown(self, batch: Batch) -> set[UUID]:
        """Return the documents of ``batch`` that are to be looked up."""
        documents = set(batch.documents)
        new = documents - self._next.keys()
        if new and len(self._next) + len(new) > _DOCUMENTS_KEPT:
            self._next.clear()
            self._language.clear()
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
        found = select(KnowledgeDocument.id, KnowledgeDocument.language, last).where(of_these)
        for document, language, position in await self._tx.execute(found):
            self._next[document] = 0 if position is None else position + 1
            self._language[document] = language

    def fill(self, batch: Batch) -> None:
        """Give their documents' languages to the rows of ``batch``, and positions where none is.

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
            batch.languages.append(self._language[document])
            self._next[document] = max(free, position + 1)


def _unknown(missing: set[UUID], batch: Batch | None) -> DocumentUnknownError:
    if batch is None:
        return DocumentUnknownError(f"The tenant has no document {min(missing)}.")
    row = next(at for at, document in enumerate(batch.documents) if document in missing)
    return DocumentUnknownError(
        f"knowledge_chunks, row {batch.first + row}: the tenant has no document "
        f"{batch.documents[row]}. Nothing was written."
    )
