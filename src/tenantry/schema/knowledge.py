"""The knowledge base: documents, and the chunks of them that are searched."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    UniqueConstraint,
    and_,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from tenantry.schema.base import Base, TenantScoped
from tenantry.schema.languages import DEFAULT_LANGUAGE, LANGUAGES
from tenantry.schema.row_security import (
    AUTH_ROLE,
    INFO_KEY,
    Grant,
    Privilege,
    tenant_row_security,
)
from tenantry.schema.types import (
    CONTENT_MAX_BYTES,
    STORAGE,
    STORAGE_PARAMETERS,
    BoundedText,
    Embedding,
    JsonObject,
    UtcDateTime,
)

__all__ = ["KnowledgeChunk", "KnowledgeDocument"]

# A vector is 4 kB: PostgreSQL would move it out of its row, and to fetch it from there takes seven
# times as long as to compare it. Long contents are moved out instead.
_INLINE = {STORAGE: "PLAIN"}
_WHOLE_PAGES = {"toast_tuple_target": 8160}

_LANGUAGE = f"language IN ({', '.join(repr(each) for each in LANGUAGES)})"

# What the search functions need: they run as tenantry_auth and ask for the bound tenant's rows
# themselves, since behind a policy PostgreSQL would use neither a text index nor one on metadata.
_READ: Final = frozenset[Privilege]({"SELECT"})
_DOCUMENT_SEARCH = Grant(
    AUTH_ROLE, _READ, ("tenant_id", "id", "title", "content", "embedding", "metadata")
)
_CHUNK_SEARCH = Grant(
    AUTH_ROLE,
    _READ,
    ("tenant_id", "id", "document_id", "content", "embedding", "language", "lexemes"),
)


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
        CheckConstraint(_LANGUAGE, name="language"),
        # What search goes by: the index above finds the documents of all tenants, and to look into
        # theirs would tell by its time whether a text stands in one.
        Index(
            "knowledge_documents_lower_content_trgm_idx",
            "tenant_id",
            literal_column("lower(content)").label("lower_content"),
            postgresql_using="gin",
            postgresql_ops={"lower_content": "gin_trgm_ops"},
        ),
        Index(
            "knowledge_documents_metadata_idx",
            "tenant_id",
            "metadata",
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
        ),
        {
            "comment": "Documents as they were added; what is searched are their chunks.",
            "info": {
                INFO_KEY: tenant_row_security(auth=[_DOCUMENT_SEARCH]),
                STORAGE_PARAMETERS: _WHOLE_PAGES,
            },
        },
    )

    title: Mapped[str] = mapped_column(BoundedText(1000))
    content: Mapped[str] = mapped_column(BoundedText(CONTENT_MAX_BYTES))
    embedding: Mapped[list[float] | None] = mapped_column(
        Embedding, info=_INLINE, comment="NULL: not embedded."
    )
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
    language: Mapped[str] = mapped_column(
        BoundedText(64),
        default=DEFAULT_LANGUAGE,
        server_default=DEFAULT_LANGUAGE,
        comment="Whose word forms keyword search knows; its chunks have the same.",
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
        CheckConstraint(_LANGUAGE, name="language"),
        # Not a mapped attribute: the ORM would fetch it after each INSERT and with each row.
        Column(
            "lexemes",
            TSVECTOR,
            Computed("tenantry.lexemes(language, content)", persisted=True),
            comment="What keyword search finds the chunk by.",
        ),
        Index("knowledge_chunks_lexemes_idx", "tenant_id", "lexemes", postgresql_using="gin"),
        {
            "comment": "Passages of documents, in order of position; what search finds.",
            "info": {
                INFO_KEY: tenant_row_security(auth=[_CHUNK_SEARCH]),
                STORAGE_PARAMETERS: _WHOLE_PAGES,
            },
        },
    )
    __mapper_args__ = {"exclude_properties": ["lexemes"]}  # noqa: RUF012 - as SQLAlchemy has it

    document_id: Mapped[UUID]
    content: Mapped[str] = mapped_column(BoundedText(CONTENT_MAX_BYTES))
    embedding: Mapped[list[float] | None] = mapped_column(
        Embedding,
        info=_INLINE,
        comment="NULL: not embedded, so vector search does not find it.",
    )
    position: Mapped[int] = mapped_column(comment="From 0, in reading order.")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    language: Mapped[str] = mapped_column(
        BoundedText(64), default=DEFAULT_LANGUAGE, server_default=DEFAULT_LANGUAGE
    )

    document: Mapped[KnowledgeDocument] = relationship(
        primaryjoin=lambda: and_(
            foreign(KnowledgeChunk.document_id) == KnowledgeDocument.id,
            KnowledgeChunk.tenant_id == KnowledgeDocument.tenant_id,
        ),
        back_populates="chunks",
        lazy="raise",
    )
