"""Adding, replacing and deleting documents, each with its chunks, as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Table, delete, insert, update
from sqlalchemy.exc import IntegrityError

from tenantry.errors import ConflictError, DocumentUnknownError, InvalidValueError
from tenantry.knowledge.chunks import ChunkSource, as_document_id
from tenantry.knowledge.loading import load_chunks, require_tenant
from tenantry.schema import KnowledgeChunk, KnowledgeDocument
from tenantry.schema.base import uuid7
from tenantry.schema.languages import DEFAULT_LANGUAGE, LANGUAGES

if TYPE_CHECKING:
    from uuid import UUID

    from tenantry.tenancy.sessions import TenantSession

__all__ = ["add_document", "delete_document", "replace_document"]

_SOURCE_KEY = "knowledge_documents_tenant_id_source_key"


async def add_document(
    tx: TenantSession,
    *,
    title: str,
    content: str,
    embedding: Any = None,
    metadata: Mapping[str, Any] | None = None,
    language: str = DEFAULT_LANGUAGE,
    source: str | None = None,
    chunks: ChunkSource = (),
) -> UUID:
    """Add a document with its chunks, all or nothing.

    Args:
        tx: A tenant's session.
        title: Up to 1,000 bytes of UTF-8.
        content: The whole text.
        embedding: `EMBEDDING_DIMENSIONS` numbers; None: not embedded.
        metadata: A JSON object.
        language: Whose word forms keyword search knows, one of `LANGUAGES`; its chunks have it too.
        source: Where it comes from; no two documents of a tenant have the same.
        chunks: Its passages in reading order, as `load_chunks` takes them.

    Returns:
        The document's id.

    Raises:
        InvalidValueError: A value that cannot be stored.
        ConflictError: The tenant has a document of this source, or two chunks have one position.
        SessionUseError: ``tx`` is not a tenant's session.
        ReadOnlyError: ``tx`` is read-only.
        TransactionUndoneError: Another transaction was in the way.
    """
    require_tenant(tx)
    values = _values(title, content, embedding, metadata, language)
    values["source"] = None if source is None else _accept("source", source)
    document_id: UUID = uuid7()
    async with tx.begin_nested():
        statement = insert(KnowledgeDocument).values(
            tenant_id=tx.tenant_id, id=document_id, **values
        )
        try:
            await tx.execute(statement)
        except IntegrityError as error:
            if _constraint(error) != _SOURCE_KEY:
                raise
            raise ConflictError(
                "The tenant has a document of this source already. Replace that one, or give "
                "another source."
            ) from None  # the driver's error quotes the row
        await _load(tx, document_id, chunks)
    return document_id


async def replace_document(
    tx: TenantSession,
    document_id: UUID | str,
    *,
    title: str,
    content: str,
    embedding: Any = None,
    metadata: Mapping[str, Any] | None = None,
    language: str | None = None,
    chunks: ChunkSource = (),
) -> None:
    """Replace a document and its chunks, all or nothing. Its id, source and created_at stay.

    What is not given is emptied: an earlier embedding, earlier metadata, earlier chunks. Of two
    that replace the same document, the second waits until the first has committed. The next import
    of the document's source brings the file's text back.

    Args:
        tx: A tenant's session.
        document_id: Which.
        title: As for `add_document`, like the others.
        content: The whole text.
        embedding: None: not embedded.
        metadata: None: empty.
        language: None: as it was.
        chunks: Its passages in reading order.

    Raises:
        DocumentUnknownError: The tenant has no such document.
        InvalidValueError: A value that cannot be stored.
        ConflictError: Two chunks have one position.
        SessionUseError: ``tx`` is not a tenant's session.
        ReadOnlyError: ``tx`` is read-only.
        TransactionUndoneError: Another transaction was in the way.
    """
    require_tenant(tx)
    id_ = as_document_id(document_id)
    values = _values(title, content, embedding, metadata, language)
    async with tx.begin_nested():
        # Locks the row: who replaces it at the same time goes on when this transaction has ended,
        # and finds these chunks to delete. Without a digest, an import sees that it has changed.
        changed = await tx.scalar(
            update(KnowledgeDocument)
            .where(KnowledgeDocument.id == id_)
            .values(**values, source_digest=None)
            .returning(KnowledgeDocument.id)
        )
        if changed is None:
            raise _unknown(id_)
        await tx.execute(delete(KnowledgeChunk).where(KnowledgeChunk.document_id == id_))
        await _load(tx, id_, chunks)


async def delete_document(tx: TenantSession, document_id: UUID | str) -> None:
    """Delete a document and its chunks.

    Args:
        tx: A tenant's session.
        document_id: Which.

    Raises:
        DocumentUnknownError: The tenant has no such document.
        SessionUseError: ``tx`` is not a tenant's session.
        ReadOnlyError: ``tx`` is read-only.
        TransactionUndoneError: Another transaction was in the way.
    """
    require_tenant(tx)
    id_ = as_document_id(document_id)
    deleted = await tx.scalar(
        delete(KnowledgeDocument).where(KnowledgeDocument.id == id_).returning(KnowledgeDocument.id)
    )
    if deleted is None:
        raise _unknown(id_)


def _values(
    title: str,
    content: str,
    embedding: Any,
    metadata: Mapping[str, Any] | None,
    language: str | None,
) -> dict[str, Any]:
    """Return what adding and replacing write alike, checked."""
    if language is not None:
        check_language(language)
    return {
        **({} if language is None else {"language": language}),
        "title": _accept("title", title),
        "content": _accept("content", content),
        "embedding": None if embedding is None else _accept("embedding", embedding),
        "document_metadata": _accept("metadata", {} if metadata is None else _dict(metadata)),
    }


def check_language(language: object) -> None:
    """Raise where ``language`` is none of `LANGUAGES`.

    Raises:
        InvalidValueError: see above.
    """
    if not isinstance(language, str) or language not in LANGUAGES:
        found = repr(language)[:40] if isinstance(language, str) else f"a {type(language).__name__}"
        raise InvalidValueError(
            f"knowledge_documents.language is {found}; one of {', '.join(LANGUAGES)} is "
            "required. Use 'simple' for every other language."
        )


def _accept(column: str, value: object) -> Any:
    type_: Any = cast("Table", KnowledgeDocument.__table__).c[column].type
    return type_.accept(value, f"knowledge_documents.{column}")


def _dict(metadata: object) -> object:
    return dict(metadata) if isinstance(metadata, Mapping) else metadata


async def _load(tx: TenantSession, document_id: UUID, chunks: ChunkSource) -> None:
    # Most documents that come without chunks get them later, by load_chunks.
    if not isinstance(chunks, list | tuple) or chunks:
        await load_chunks(tx, chunks, document_id=document_id)


def _unknown(document_id: UUID) -> DocumentUnknownError:
    return DocumentUnknownError(
        f"The tenant has no document {document_id}. It may have been deleted."
    )


def _constraint(error: IntegrityError) -> str | None:
    cause = None if error.orig is None else error.orig.__cause__
    return getattr(cause, "constraint_name", None)
