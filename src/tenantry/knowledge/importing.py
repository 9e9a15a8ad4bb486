"""Importing a folder of Markdown and text files into a tenant's knowledge base."""

from __future__ import annotations

import asyncio
import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql

from tenantry.errors import InvalidValueError, TenantUnknownError
from tenantry.knowledge.documents import check_language
from tenantry.knowledge.embedders import Embedder, embed
from tenantry.knowledge.folders import Folder, SourceText, list_folder, read_text
from tenantry.knowledge.loading import load_chunks
from tenantry.knowledge.splitting import MAX_CHARACTERS, split
from tenantry.schema import KnowledgeChunk, KnowledgeDocument, Tenant
from tenantry.schema.languages import DEFAULT_LANGUAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from tenantry.database import Database

__all__ = ["ImportProgress", "ImportReport", "import_folder"]

_DIGEST_SCHEME: Final = b"tenantry import 1"
_TEXTS_PER_CALL: Final = 128
_SOURCES_PER_DELETE: Final = 500


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import has come.

    Args:
        source: The file that was just dealt with.
        done: Files dealt with so far.
        total: Files in all.
    """

    source: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did, by source: the file's path within the folder.

    Args:
        added: New documents.
        changed: Documents whose chunks were replaced; their ids stay.
        unchanged: Documents that were left alone.
        gone: Documents whose file is not there any more; kept.
        removed: The same, removed since the import was asked to prune.
        failed: Files that could not be read, each with the reason.
        chunks: Number of chunks written.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    gone: tuple[str, ...]
    removed: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    chunks: int


async def import_folder(
    db: Database,
    tenant_id: UUID | str,
    path: str | Path,
    *,
    embedder: Embedder,
    embedder_name: str,
    language: str = DEFAULT_LANGUAGE,
    prune: bool = False,
    on_progress: Callable[[ImportProgress], None] | None = None,
) -> ImportReport:
    """Bring a tenant's knowledge base to what a folder, or one file, holds now.

    Documents are known by their path within the folder, so a tenant's imports share one folder.
    A document is written when its text, its title, its language, the way it is split or the
    embedder's name changed, whole and in a transaction of its own; texts are embedded outside of
    any. When the import is interrupted, the next one does the rest.

    The embedding of a document is the mean direction of its chunks': models cut long inputs off
    in silence, so a document embedded whole would be found by its beginning only.

    Args:
        db: The database; only its application role is used.
        tenant_id: Whose knowledge base.
        path: The folder or file.
        embedder: Makes the vectors.
        embedder_name: Its name; another name embeds everything anew.
        language: Whose word forms keyword search knows in these documents, one of
            `tenantry.schema.languages.LANGUAGES`.
        prune: Remove documents of earlier imports whose files are gone. Documents that no import
            made, or that `replace_document` has written since, stay in any case.
        on_progress: Called after each file.

    Raises:
        ConfigurationError: Nothing to import at ``path``, or the embedder failed.
        InvalidValueError: The embedder returned something else than one vector for each text, the
            language is unknown, or an option is of another type.
        TenantRequiredError: ``tenant_id`` is not a UUID.
        TenantUnknownError: No tenant has this id.
    """
    check_language(language)
    for option, value, type_ in (("embedder_name", embedder_name, str), ("prune", prune, bool)):
        if not isinstance(value, type_):
            raise InvalidValueError(
                f"{option} is a {type(value).__name__}; a {type_.__name__} is required."
            )
    folder = await asyncio.to_thread(list_folder, Path(path))
    stored = await _stored_digests(db, tenant_id)
    work = _Import(db, tenant_id, embedder, embedder_name, language, stored)
    for done, (source, file) in enumerate(folder.files.items(), start=1):
        await work.bring_in(source, file)
        if on_progress is not None:
            on_progress(ImportProgress(source, done, len(folder.files)))
    gone = _gone(folder, stored)
    if prune:
        await _remove(db, tenant_id, gone)
    return ImportReport(
        added=tuple(work.added),
        changed=tuple(work.changed),
        unchanged=tuple(work.unchanged),
        gone=() if prune else gone,
        removed=gone if prune else (),
        failed=tuple(sorted([*folder.failed, *work.failed])),
        chunks=work.chunks,
    )


@dataclass(frozen=True, slots=True)
class _Document:
    source: str
    text: SourceText
    language: str
    digest: bytes


@dataclass(slots=True)
class _Import:
    db: Database
    tenant_id: UUID | str
    embedder: Embedder
    embedder_name: str
    language: str
    stored: dict[str, bytes | None]
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = 0

    async def bring_in(self, source: str, file: Path) -> None:
        """Write one document if it is new or changed, and note what became of it."""
        try:
            text = await asyncio.to_thread(read_text, file, source=source)
        except InvalidValueError as error:
            self.failed.append((source, str(error).removesuffix(".")))
            return
        document = _Document(
            source, text, self.language, _digest(text, self.embedder_name, self.language)
        )
        if self.stored.get(source) == document.digest:
            self.unchanged.append(source)
            return
        chunks = await asyncio.to_thread(split, text.content, markdown=text.markdown)
        vectors = await self._embed(chunks)
        if not await _store(self.db, self.tenant_id, document, chunks=chunks, vectors=vectors):
            self.unchanged.append(source)  # another import of the same file was first
            return
        (self.changed if source in self.stored else self.added).append(source)
        self.chunks += len(chunks)

    async def _embed(self, chunks: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(chunks), _TEXTS_PER_CALL):
            texts = chunks[start : start + _TEXTS_PER_CALL]
            vectors += await embed(self.embedder, texts, name=self.embedder_name)
        return vectors


async def _stored_digests(db: Database, tenant_id: UUID | str) -> dict[str, bytes | None]:
    async with db.tenant(tenant_id) as tx:
        if await tx.scalar(select(Tenant.id).where(Tenant.id == tx.tenant_id)) is None:
            raise TenantUnknownError(
                f"No tenant has the id {tx.tenant_id}. `tenantry tenant list` shows the tenants."
            )
        rows = await tx.execute(
            select(KnowledgeDocument.source, KnowledgeDocument.source_digest).where(
                KnowledgeDocument.source.is_not(None)
            )
        )
        return {str(source): digest for source, digest in rows}


async def _store(
    db: Database,
    tenant_id: UUID | str,
    document: _Document,
    *,
    chunks: Sequence[str],
    vectors: Sequence[list[float]],
) -> bool:
    """Write the document and its chunks; False: it is there already, in this very version."""
    async with db.tenant(tenant_id) as tx:
        document_id = await tx.scalar(_upsert(tx.tenant_id, document, _mean_direction(vectors)))
        if document_id is None:
            return False
        await tx.execute(
            delete(KnowledgeChunk).where(KnowledgeChunk.document_id == document_id),
            execution_options={"synchronize_session": False},
        )
        await load_chunks(tx, chunks, document_id=document_id, embeddings=vectors)
        return True


def _upsert(tenant_id: UUID, document: _Document, embedding: list[float] | None) -> Any:
    # One statement decides who comes first. It locks the row, so two imports of one file write
    # their chunks one after the other, and the second finds its digest there and writes nothing.
    statement = postgresql.insert(KnowledgeDocument).values(
        tenant_id=tenant_id,
        title=document.text.title,
        content=document.text.content,
        embedding=embedding,
        language=document.language,
        source=document.source,
        source_digest=document.digest,
    )
    new = statement.excluded
    changing = ("title", "content", "embedding", "language", "source_digest")
    return statement.on_conflict_do_update(
        index_elements=[KnowledgeDocument.tenant_id, KnowledgeDocument.source],
        set_={name: new[name] for name in changing},
        where=KnowledgeDocument.source_digest.is_distinct_from(new.source_digest),
    ).returning(KnowledgeDocument.id)


def _mean_direction(vectors: Sequence[Sequence[float]]) -> list[float] | None:
    """Return the mean of the unit vectors, or the first vector if they cancel out."""
    if not vectors:
        return None
    lengths = [math.sqrt(math.fsum(x * x for x in vector)) for vector in vectors]
    units = [[x / n for x in vector] for vector, n in zip(vectors, lengths, strict=True)]
    mean = [math.fsum(components) / len(units) for components in zip(*units, strict=True)]
    return mean if math.fsum(x * x for x in mean) > 1e-12 else units[0]  # noqa: PLR2004


def _digest(text: SourceText, embedder_name: str, language: str) -> bytes:
    how = f"{embedder_name} markdown={text.markdown} max_characters={MAX_CHARACTERS}"
    # What was imported before there were languages is in the default one, and need not be embedded
    # anew for it.
    if language != DEFAULT_LANGUAGE:
        how += f" language={language}"
    digest = hashlib.sha256(_DIGEST_SCHEME)
    for part in (how, text.title, text.content):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def _gone(folder: Folder, stored: dict[str, bytes | None]) -> tuple[str, ...]:
    if not folder.whole:
        return ()
    return tuple(
        source
        for source, digest in sorted(stored.items())
        # Without a digest it has the application's text: added with a source, or replaced.
        if digest is not None and source not in folder.files and not folder.hides(source)
    )


async def _remove(db: Database, tenant_id: UUID | str, sources: Sequence[str]) -> None:
    for start in range(0, len(sources), _SOURCES_PER_DELETE):
        async with db.tenant(tenant_id) as tx:
            await tx.execute(
                delete(KnowledgeDocument).where(
                    KnowledgeDocument.source.in_(sources[start : start + _SOURCES_PER_DELETE]),
                    KnowledgeDocument.source_digest.is_not(None),
                ),
                execution_options={"synchronize_session": False},
            )
