"""A database with knowledge to be searched, written by the superuser."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from tenantry import Database, Settings
from tenantry.schema import EMBEDDING_DIMENSIONS
from tenantry.schema.base import uuid7
from tenantry.schema.row_security import APP_ROLE
from tenantry.search import Hit
from tests.conftest import Server, Urls, open_connection

__all__ = ["QUESTION", "Library", "contents", "library_on", "vector"]


def vector(similarity: float = 1.0, *, axis: int = 1, scale: float = 1.0) -> list[float]:
    """A vector whose cosine similarity with `QUESTION` is the one given."""
    numbers = [0.0] * EMBEDDING_DIMENSIONS
    numbers[0] = scale * similarity
    numbers[axis] = scale * math.sqrt(1 - similarity**2)
    return numbers


QUESTION = vector()


def contents(hits: Sequence[Hit]) -> list[str]:
    return [hit.content for hit in hits]


@dataclass
class Library:
    """Tenants by name, each with documents."""

    db: Database
    admin: asyncpg.Connection
    urls: Urls
    tenants: dict[str, UUID] = field(default_factory=dict)

    async def tenant(self, name: str) -> UUID:
        """Add a tenant."""
        id_ = self.tenants[name] = uuid4()
        await self.admin.execute(
            "INSERT INTO tenants (id, name, slug) VALUES ($1, $2, $2)", id_, name
        )
        return id_

    async def add(
        self,
        tenant: str,
        *passages: str,
        vectors: Sequence[list[float] | None] = (),
        title: str = "A title",
        metadata: dict[str, Any] | None = None,
        language: str = "english",
        embedding: list[float] | None = None,
    ) -> UUID:
        """Add a document with its chunks; return its id."""
        if tenant not in self.tenants:
            await self.tenant(tenant)
        document = uuid7()
        await self.admin.execute(
            "INSERT INTO knowledge_documents (tenant_id, id, title, content, metadata, language,"
            " embedding) VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7::text::vector)",
            *(self.tenants[tenant], document, title, " ".join(passages)),
            *(json.dumps(metadata or {}), language, None if embedding is None else str(embedding)),
        )
        found = [*vectors, *[None] * (len(passages) - len(vectors))]
        await self.admin.executemany(
            "INSERT INTO knowledge_chunks (tenant_id, id, document_id, position, content, language,"
            " embedding) VALUES ($1, $2, $3, $4, $5, $6, $7::text::vector)",
            [
                (
                    *(self.tenants[tenant], uuid7(), document, position, passage, language),
                    None if found[position] is None else str(found[position]),
                )
                for position, passage in enumerate(passages)
            ],
        )
        return document


@asynccontextmanager
async def library_on(
    server: Server, template: str, *, pool_size: int = 3
) -> AsyncIterator[Library]:
    """A migrated database, opened as the application's role, without tenants yet."""
    name = await server.create_database(template=template)
    urls = Urls(app=server.at(name, user=APP_ROLE), admin=server.at(name))
    admin = await open_connection(urls.admin)
    try:
        settings = Settings(database_url=urls.app, admin_url=urls.admin, pool_size=pool_size)
        async with Database.connect(settings=settings) as db:
            yield Library(db, admin, urls)
    finally:
        await admin.close()
        await server.drop_database(name)
