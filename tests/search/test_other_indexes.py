"""Search by words, by both and with filters, while the indexes of words and metadata are broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tenantry.knowledge import delete_document
from tenantry.search import hybrid_search, keyword_search, vector_search
from tests.conftest import Connect, Server
from tests.search.library import QUESTION, Library, contents, library_on, vector

INDEXES = """
    SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
      JOIN pg_am a ON a.oid = i.relam
     WHERE x.indrelid IN ('knowledge_documents'::regclass, 'knowledge_chunks'::regclass)
       AND NOT x.indisunique AND a.amname <> 'hnsw' ORDER BY 1
"""
BROKEN = {
    "missing": "DROP INDEX {index}",
    "invalid": "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass",
}


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template) as library:
        for number in range(12):
            await library.add(
                "a",
                f"refund policy number {number}",
                f"part AX-47{number:02} in stock",
                vectors=[vector(number / 20), vector(number / 30)],
                metadata={"number": number},
            )
        await library.admin.execute("ANALYZE knowledge_documents, knowledge_chunks")
        yield library


async def answers(library: Library) -> list[list[str]]:
    """What every kind of search finds, in its order."""
    where = {"number": {"$gte": 6}}
    async with library.db.tenant(library.tenants["a"]) as tx:
        return [
            contents(hits)
            for hits in (
                await keyword_search(tx, "refund", k=50),
                await keyword_search(tx, 'refund -"number 3"', k=50),
                await keyword_search(tx, "refnud", k=50),  # a typing error
                await keyword_search(tx, "X-4711", k=50),  # a part of a word
                await keyword_search(tx, "refund", k=50, where=where),
                await hybrid_search(tx, text="refund", embedding=QUESTION, k=50, where=where),
                await hybrid_search(tx, text='"policy number"', embedding=QUESTION, k=50),
                await vector_search(tx, QUESTION, k=50, where=where),
            )
        ]


@asynccontextmanager
async def broken(library: Library, statement: str) -> AsyncIterator[list[str]]:
    """Within the block all of these indexes are so; yield their names."""
    indexes = [row[0] for row in await library.admin.fetch(INDEXES)]
    definitions = [
        await library.admin.fetchval("SELECT pg_get_indexdef($1::text::regclass)", each)
        for each in indexes
    ]
    for index in indexes:
        await library.admin.execute(statement.format(index=index))
    try:
        yield indexes
    finally:
        for index, definition in zip(indexes, definitions, strict=True):
            await library.admin.execute(f"DROP INDEX IF EXISTS {index}")
            await library.admin.execute(definition)


@pytest.mark.parametrize("statement", BROKEN.values(), ids=BROKEN)
async def test_without_them_everything_is_found(library: Library, statement: str) -> None:
    """Without these indexes, searches are slower, and find the same in the same order."""
    expected = await answers(library)
    assert [len(each) for each in expected] == [12, 11, 12, 1, 6, 12, 12, 12]
    async with broken(library, statement) as indexes:
        assert len(indexes) >= 4
        assert await answers(library) == expected


async def test_while_they_are_rebuilt(library: Library, connect: Connect) -> None:
    """REINDEX CONCURRENTLY goes on beside searches; each finds what is there."""
    other = await connect(library.urls.admin)
    expected = await answers(library)

    async def rebuild() -> None:
        for row in await other.fetch(INDEXES):
            await other.execute(f"REINDEX INDEX CONCURRENTLY {row[0]}")

    task = asyncio.create_task(rebuild())
    searched = 0
    while not task.done():
        assert await answers(library) == expected
        searched += 1
    await task
    assert searched >= 1


async def test_documents_deleted_under_searches(library: Library) -> None:
    """By words and by both: a document is found with its chunks, or not at all, and no error."""
    documents = [
        await library.add("churn", "one refund", "other refund", vectors=[QUESTION, vector(0.5)])
        for _ in range(6)
    ]
    tenant = library.tenants["churn"]

    async def search(by_both: bool) -> None:
        async with library.db.tenant(tenant) as tx:
            if by_both:
                hits = await hybrid_search(tx, text="refund", embedding=QUESTION, k=100)
            else:
                hits = await keyword_search(tx, "refund", k=100)
        found = [hit.document_id for hit in hits]
        assert all(found.count(each) == 2 for each in found)

    async def delete(number: int) -> None:
        async with library.db.tenant(tenant) as tx:
            await delete_document(tx, documents[number])

    await asyncio.gather(
        *(search(by_both) for by_both in (True, False) * 3),
        *(delete(number) for number in range(6)),
        *(search(by_both) for by_both in (True, False) * 3),
    )
    async with library.db.tenant(tenant) as tx:
        assert await keyword_search(tx, "refund") == []
