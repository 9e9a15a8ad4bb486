"""Search by vectors while the index, the documents and the settings change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import text

from tenantry.knowledge import delete_document
from tenantry.search import explain_vector_search, vector_search
from tenantry.tenancy.sessions import TenantSession
from tests.conftest import Connect, Server
from tests.search.large import BOTH, INDEXES, as_tenant, asked_by_index, large_library
from tests.search.library import QUESTION, Library, contents, vector

SETTINGS = (
    *("hnsw.ef_search", "hnsw.iterative_scan", "enable_sort", "enable_seqscan", "enable_hashjoin"),
    *("enable_mergejoin", "jit", "search_path", "plan_cache_mode", "tenantry.tenant_id"),
)


# 200 documents of one chunk; the 5 newest of each have vectors.
SPARSE = """
    WITH documents AS (
        INSERT INTO knowledge_documents (tenant_id, title, content, embedding)
        SELECT $1, 't', 'c', CASE WHEN n > 195 THEN
                   ('[' || ($2::float8[])[1] || repeat(',0', 1023) || ']')::vector END
          FROM generate_series(1, 200) n
        RETURNING tenant_id, id, embedding
    )
    INSERT INTO knowledge_chunks (tenant_id, document_id, content, position, embedding)
    SELECT tenant_id, id, 'c', 0, embedding FROM documents
"""


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with large_library(server, template) as library:
        yield library


@BOTH
async def test_settings_do_not_leak(library: Library, documents: bool) -> None:
    """What a search sets for itself is as it was, right after it and in the next transaction."""

    async def settings(tx: TenantSession) -> list[str]:
        return [str(await tx.scalar(text(f"SELECT current_setting('{s}')"))) for s in SETTINGS]

    async with as_tenant(library) as tx:
        await tx.execute(text("SELECT '[1]'::public.vector"))
        first = await settings(tx)
        await tx.execute(text("SET LOCAL hnsw.ef_search = 77"))
        await asked_by_index(tx)
        before = await settings(tx)
        assert "77" in before
        await vector_search(tx, QUESTION, documents=documents)
        assert await settings(tx) == before
    async with as_tenant(library) as tx:
        assert await settings(tx) == first


# The index itself


@pytest.mark.parametrize(
    "broken",
    [
        "DROP INDEX {index}",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass",
        "UPDATE pg_index SET indisready = false, indisvalid = false"
        " WHERE indexrelid = '{index}'::regclass",
    ],
    ids=["missing", "invalid", "not ready"],
)
async def test_without_the_index(library: Library, broken: str) -> None:
    """A missing or invalid index makes a search slower, and nothing else."""
    async with as_tenant(library) as tx:
        expected = contents(await vector_search(tx, QUESTION, recall=1))
    restore = [
        await library.admin.fetchval("SELECT pg_get_indexdef($1::text::regclass)", each)
        for each in INDEXES
    ]
    try:
        for index in INDEXES:
            await library.admin.execute(broken.format(index=index))
        async with as_tenant(library) as tx:
            await asked_by_index(tx)
            for documents in (False, True):
                plan = await explain_vector_search(tx, documents=documents)
                assert plan.plan == "exact"
                assert "there is no valid index" in plan.reason
                assert "`tenantry knowledge mend` rebuilds one that is invalid" in plan.reason
                hits = await vector_search(tx, QUESTION, documents=documents)
                assert [h.content.split()[1] for h in hits] == [e.split()[1] for e in expected]
    finally:
        for index, definition in zip(INDEXES, restore, strict=True):
            await library.admin.execute(f"DROP INDEX IF EXISTS {index}")
            await library.admin.execute(definition)


@BOTH
@pytest.mark.parametrize("is_there", [True, False], ids=["with", "without"])
async def test_rows_without_a_vector_are_no_hits(
    library: Library, documents: bool, is_there: bool
) -> None:
    """Of many rows few have a vector: those are compared, and no other fills the result up."""
    tenant = await library.tenant(f"few-{int(documents)}-{int(is_there)}")
    definition = await library.admin.fetchval(
        "SELECT pg_get_indexdef($1::text::regclass)", INDEXES[documents]
    )
    await library.admin.execute(SPARSE, tenant, QUESTION[:1])
    try:
        if not is_there:
            await library.admin.execute(f"DROP INDEX {INDEXES[documents]}")
        async with library.db.tenant(tenant) as tx:
            await asked_by_index(tx)
            plan = await explain_vector_search(tx, documents=documents)
            hits = await vector_search(tx, QUESTION, documents=documents, min_similarity=0.5)
    finally:
        if not is_there:
            await library.admin.execute(definition)
    assert plan.plan == "exact"
    assert plan.candidates == (5 if is_there else 101)
    assert [round(hit.score, 6) for hit in hits] == [1.0] * 5


async def test_while_the_index_is_rebuilt(library: Library, connect: Connect) -> None:
    """REINDEX CONCURRENTLY goes on beside searches; each finds what is there."""
    other = await connect(library.urls.admin)

    async def rebuild() -> None:
        for index in INDEXES:
            await other.execute(f"REINDEX INDEX CONCURRENTLY {index}")

    task = asyncio.create_task(rebuild())
    found = set()
    searches = 0
    while not task.done():
        async with as_tenant(library) as tx:
            await asked_by_index(tx)
            for documents in (False, True):
                hits = await vector_search(tx, QUESTION, documents=documents)
                found.add(len(hits))
                searches += 1
    await task
    assert found == {10}
    assert searches > 4


async def test_document_deleted_while_it_is_searched(library: Library) -> None:
    """A search sees a document with its chunks, or neither; one that has begun finishes."""
    document = await library.add("deleted", "one", "two", vectors=[QUESTION, QUESTION])
    async with as_tenant(library, "deleted") as reading, as_tenant(library, "deleted") as writing:
        await delete_document(writing, document)
        before = await vector_search(reading, QUESTION)
        await writing.commit()
        after = await vector_search(reading, QUESTION)
    assert (len(before), len(after)) == (2, 0)


async def test_deleted_under_many_searches(library: Library) -> None:
    """However deleting and searching fall together, there is no error and no half document."""
    documents = [
        await library.add("churn", "one", "two", vectors=[QUESTION, vector(0.5)]) for _ in range(8)
    ]

    async def search() -> list[UUID]:
        async with as_tenant(library, "churn") as tx:
            return [hit.document_id for hit in await vector_search(tx, QUESTION, k=100)]

    async def delete(document: UUID) -> None:
        async with as_tenant(library, "churn") as tx:
            await delete_document(tx, document)

    deleting = [asyncio.create_task(delete(document)) for document in documents]
    for hits in await asyncio.gather(*(search() for _ in range(2 * len(documents)))):
        assert all(hits.count(document) == 2 for document in hits)
    await asyncio.gather(*deleting)
    assert await search() == []
