"""The knowledge base: documents, and the chunks of them that are searched."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    UniqueConstraint,
    and_,
    func,
    text,
)
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from tenantry.schema.base import Base, TenantScoped
from tenantry.schema.types import (
    CONTENT_MAX_BYTES,
    BoundedText,
    Embedding,
    JsonObject,
    UtcDateTime,
)

__all__ = ["KnowledgeChunk", "KnowledgeDocument"]


class KnowledgeDocument(TenantScoped, Base):
    """A document of a tenant's knowledge base, whole."""

    __tablename__ = "knowledge_documents"
    __table_args__ = (
        UniqueConstraint("tenant_id", "source"),
        CheckConstraint(f"octet_length(content) <= {CONTENT_MAX_BYTES}", name="content"),
        # HNSW leaves zero vectors out: they would never be found, without an error.
        CheckConstraint("vector_norm(embedding) > 0", name="embedding"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint("octet_length(source_digest) = 32", name="source_digest"),
        Index(
            "knowledge_documents_embedding_idx",
            "embedding",
            postgresql_using="hnsw",
            postgresql_ops={"embedding": "vector_cosine_ops"},
        ),
        Index(
            "knowledge_documents_content_trgm_idx",
            "content",
            postgresql_using="gin",
            postgresql_ops={"content": "gin_trgm_ops"},
        ),
        {"comment": "Documents as they were added; what is searched are their chunks."},
    )

    title: Mapped[str] = mapped_column(BoundedText(1000))
    content: Mapped[str] = mapped_column(BoundedText(CONTENT_MAX_BYTES))
    embedding: Mapped[list[float] | None] = mapped_column(Embedding, comment="NULL: not embedded.")
    document_metadata: Mapped[dict[str, Any]] = mapped_column(
        "metadata", JsonObject, default=dict, server_default=text("'{}'::jsonb")
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    source: Mapped[str | None] = mapped_column(
        BoundedText(1000), comment="Where an import read it, relative to the imported folder."
    )
    source_digest: Mapped[bytes | None] = mapped_column(
        LargeBinary, comment="SHA-256 of what was imported and how; the same digest: unchanged."
    )

    chunks: Mapped[list[KnowledgeChunk]] = relationship(
        primaryjoin=lambda: and_(
            foreign(KnowledgeChunk.document_id) == KnowledgeDocument.id,
            KnowledgeChunk.tenant_id == KnowledgeDocument.tenant_id,
        ),
        back_populates="document",
        order_by=lambda: KnowledgeChunk.position,
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="raise",
    )


class KnowledgeChunk(TenantScoped, Base):
    """A passage of a document, small enough to be embedded and found."""

    __tablename__ = "knowledge_chunks"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "document_id"],
            ["knowledge_documents.tenant_id", "knowledge_documents.id"],
            ondelete="CASCADE",
        ),
        UniqueConstraint("tenant_id", "document_id", "position"),
        CheckConstraint("position >= 0", name="position"),
        CheckConstraint(f"octet_length(content) <= {CONTENT_MAX_BYTES}", name="content"),
        CheckConstraint("vector_norm(embedding) > 0", name="embedding"),
        Index(
            "knowledge_chunks_embedding_idx",
            "embedding",
            postgresql_using="hnsw",
            postgresql_ops={"embedding": "vector_cosine_ops"},
        ),
        {"comment": "Passages of documents, in order of position; what search finds."},
    )

    document_id: Mapped[UUID]
    content: Mapped[str] = mapped_column(BoundedText(CONTENT_MAX_BYTES))
    embedding: Mapped[list[float] | None] = mapped_column(
        Embedding, comment="NULL: not embedded, so vector search does not find it."
    )
    position: Mapped[int] = mapped_column(comment="From 0, in reading order.")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())

    document: Mapped[KnowledgeDocument] = relationship(
        primaryjoin=lambda: and_(
            foreign(KnowledgeChunk.document_id) == KnowledgeDocument.id,
            KnowledgeChunk.tenant_id == KnowledgeDocument.tenant_id,
        ),
        back_populates="chunks",
        lazy="raise",
    )
