"""Migration 0004 on a database with rows: what was stored is found by words, and back again."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from tenantry.ops import drift
from tenantry.ops.migrations import downgrade, migrate
from tests.conftest import Connect, Urls
from tests.ops.projects import declare

ROWS = """
    INSERT INTO tenants (id, name, slug, api_key)
    VALUES ('00000000-0000-0000-0000-00000000000a', 'Acme', 'acme', sha256('key'));
    INSERT INTO knowledge_documents (tenant_id, title, content, embedding)
    SELECT id, 'Refunds', 'We refunded them', array_fill(0.5, ARRAY[1024])::vector FROM tenants;
    INSERT INTO knowledge_chunks (tenant_id, document_id, content, embedding, position)
    SELECT d.tenant_id, d.id, 'We refunded order ' || n,
           (SELECT array_agg(sin(n * i)) FROM generate_series(1, 1024) i)::vector, n
      FROM knowledge_documents d, generate_series(1, 20) n
"""

TOASTED = """
    SELECT sum(pg_relation_size(reltoastrelid)) FROM pg_class
     WHERE relname IN ('knowledge_documents', 'knowledge_chunks')
"""

STORAGE = """
    SELECT attstorage::text FROM pg_attribute
     WHERE attname = 'embedding' AND attrelid IN ('knowledge_documents'::regclass,
                                                  'knowledge_chunks'::regclass)
"""

FOUND = """
    SELECT count(*) FROM knowledge_chunks
     WHERE language = 'english' AND lexemes @@ to_tsquery('english', 'refund')
"""

SUM = "SELECT sum(embedding)::text FROM knowledge_chunks"


async def storage(connection: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await connection.fetch(STORAGE)]


@pytest.fixture
async def before(urls: Urls, connect: Connect) -> asyncpg.Connection:
    """The superuser's connection to a database at 0003 with chunks, their vectors toasted."""
    await downgrade(urls.admin, target="tenantry_0003")
    admin = await connect(urls.admin)
    await admin.execute(ROWS)
    assert await storage(admin) == ["e", "e"]
    assert await admin.fetchval(TOASTED) >= 20 * 4096
    return admin


async def test_chunks_that_are_there_are_found_by_their_words(
    urls: Urls, before: asyncpg.Connection
) -> None:
    """They get their words, their vectors move into their rows, and no vector changes."""
    vectors = await before.fetchval(SUM)
    assert (await migrate(urls.admin))[0] == "tenantry_0004"
    assert await before.fetchval(FOUND) == 20
    assert await storage(before) == ["p", "p"]
    chunks = TOASTED.replace("'knowledge_documents', ", "")
    assert await before.fetchval(chunks) == 0
    assert await before.fetchval(SUM) == vectors
    assert await drift.check(urls.admin) == []


async def test_the_way_down_keeps_the_rows(urls: Urls, before: asyncpg.Connection) -> None:
    """Down again the vectors are as they were, new ones go where they went, and up works anew."""
    vectors = await before.fetchval(SUM)
    await migrate(urls.admin)
    assert (await downgrade(urls.admin, target="tenantry_0003"))[-1] == "tenantry_0004"
    assert await before.fetchval(SUM) == vectors
    assert await storage(before) == ["e", "e"]
    for of_search in ("tenantry.search_vectors", "tenantry.lexemes"):
        named = "SELECT count(*) FROM pg_proc WHERE oid::regproc::text = $1"
        assert await before.fetchval(named, of_search) == 0
    await before.execute("UPDATE knowledge_chunks SET embedding = embedding * embedding")
    assert await before.fetchval(TOASTED.replace("'knowledge_documents', ", "")) >= 20 * 4096
    await migrate(urls.admin)
    assert await before.fetchval(FOUND) == 20


OWN = """
    from sqlalchemy import Computed
    from sqlalchemy.dialects.postgresql import TSVECTOR
    from sqlalchemy.orm import Mapped, mapped_column
    from tenantry.schema import Base, TenantScoped
    from tenantry.schema.types import STORAGE, STORAGE_PARAMETERS, Embedding

    class Mine(Base):
        __abstract__ = True
        metadata = metadata

    class Clip(TenantScoped, Mine):
        __tablename__ = "clips"
        __table_args__ = {"info": {STORAGE_PARAMETERS: {"toast_tuple_target": 8160}}}
        said: Mapped[str]
        words: Mapped[str] = mapped_column(
            TSVECTOR, Computed("TO_TSVECTOR('simple',said)", persisted=True), index=False
        )
        embedding: Mapped[list[float]] = mapped_column(Embedding, info={STORAGE: "PLAIN"})
"""


@pytest.mark.parametrize("way", ["push", "migration"])
async def test_ones_own_vectors_may_stay_in_their_rows(
    urls: Urls, connect: Connect, tmp_path: Path, way: str
) -> None:
    """A table of one's own declares storage, its parameters and generated columns alike."""
    from tenantry.ops.revisions import revision

    project = declare(tmp_path, OWN)
    if way == "push":
        await drift.push(urls.admin, project=project)
    else:
        written = await revision(urls.admin, message="clips", project=project)
        assert written is not None
        assert "op.set_storage(table='clips', column='embedding'" in written.read_text()
        await migrate(urls.admin, project=project)
    assert await drift.check(urls.admin, project=project) == []
    admin = await connect(urls.admin)
    stored = "SELECT attstorage::text FROM pg_attribute WHERE attrelid = 'clips'::regclass"
    assert await admin.fetchval(f"{stored} AND attname = 'embedding'") == "p"
    options = "SELECT reloptions FROM pg_class WHERE oid = 'clips'::regclass"
    assert await admin.fetchval(options) == ["toast_tuple_target=8160"]
