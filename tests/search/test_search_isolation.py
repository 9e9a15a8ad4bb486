"""Many tenants that search at once, over few connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from uuid import UUID

import pytest
from sqlalchemy import text as sql
from sqlalchemy.exc import DBAPIError

from tenantry.search import (
    Hit,
    hybrid_search,
    keyword_search,
    vector_search,
)
from tenantry.tenancy.sessions import TenantSession
from tests.conftest import Server
from tests.search.library import QUESTION, Library, contents, library_on, vector

TENANTS, SEARCHES = 50, 256


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template, pool_size=4) as library:
        for n in range(TENANTS):
            # The same words, vectors and metadata for all; only the end tells whose it is.
            await library.add(
                f"tenant{n}",
                *(f"refund policy of part-{m} for owner{n}x" for m in range(3)),
                vectors=[vector(0.9 - m / 10, axis=1 + n) for m in range(3)],
                metadata={"kind": "policy"},
                embedding=vector(0.5, axis=1 + n),
            )
        await library.tenant("empty")
        yield library


POLICY = {"kind": "policy"}
KINDS: list[Callable[[TenantSession], Awaitable[list[Hit]]]] = [
    lambda tx: vector_search(tx, QUESTION),
    lambda tx: vector_search(tx, QUESTION, where=POLICY, documents=True),
    lambda tx: keyword_search(tx, "refund policy"),
    lambda tx: keyword_search(tx, "polciy", where=POLICY),
    lambda tx: keyword_search(tx, "fund poli"),
    lambda tx: hybrid_search(tx, text='"refund"', embedding=QUESTION, where=POLICY),
    lambda tx: hybrid_search(tx, text="owner1x owner2x owner3x", embedding=QUESTION),
]


async def search(library: Library, tenant: UUID, kind: int) -> list[Hit]:
    async with library.db.tenant(tenant) as tx:
        return await KINDS[kind](tx)


async def test_256_searches_of_50_tenants(library: Library) -> None:
    """Each search finds its tenant's rows, all of them and no others, whoever was there before."""
    random = Random(5)
    asked = [(random.randrange(TENANTS), random.randrange(7)) for _ in range(SEARCHES)]
    found = await asyncio.gather(
        *(search(library, library.tenants[f"tenant{n}"], kind) for n, kind in asked)
    )
    assert {kind for _, kind in asked} == set(range(7))
    for (n, kind), hits in zip(asked, found, strict=True):
        assert len(hits) == (1 if kind == 1 else 3), (n, kind)
        assert all(f"owner{n}x" in hit.content for hit in hits), (n, kind)


async def test_cancelled_searches_leave_nothing_behind(library: Library) -> None:
    """Searches given up halfway do not bind the next user of their connection to their tenant."""

    async def given_up(n: int) -> None:
        async with asyncio.timeout(0.001 * (n % 8)):
            await search(library, library.tenants["tenant1"], n % 7)

    outcomes = await asyncio.gather(*(given_up(n) for n in range(40)), return_exceptions=True)
    assert any(isinstance(each, TimeoutError) for each in outcomes)
    for n in range(8):
        hits = await search(library, library.tenants["tenant2"], n % 7)
        assert hits
        assert all("owner2x" in hit.content for hit in hits)


@pytest.mark.parametrize("kind", range(7))
async def test_a_tenant_without_anything_finds_nothing(library: Library, kind: int) -> None:
    """Neither a tenant with no documents nor an id that is no tenant's finds anything."""
    assert await search(library, library.tenants["empty"], kind) == []
    assert await search(library, UUID(int=7), kind) == []


async def test_words_of_others_do_not_weigh(library: Library) -> None:
    """Scores are as they were when others fill up with the same words."""
    await library.add("weighed", "rare common", "common", "common", "other")
    one = await _scores(library, "weighed", "rare common")
    await library.add("flood", *["rare rarely rareness"] * 600)
    two = await _scores(library, "weighed", "rare common")
    assert one == two
    assert one[0] > one[1]


async def _scores(library: Library, tenant: str, question: str) -> list[float]:
    async with library.db.tenant(library.tenants[tenant]) as tx:
        return [hit.score for hit in await keyword_search(tx, question)]


async def test_words_of_others_are_no_corrections(library: Library) -> None:
    """A word that only another tenant has corrects nobody's typing error, and is not found."""
    await library.add("knows", "the zanzibar contract")
    async with library.db.tenant(library.tenants["tenant3"]) as tx:
        for text in ("zanzibra", "aznzibar", "zanzibar", "anziba", '"zanzibar contract"'):
            assert await keyword_search(tx, text) == []
    async with library.db.tenant(library.tenants["knows"]) as tx:
        for text in ("zanzibra", "aznzibar"):
            assert contents(await keyword_search(tx, text)) == ["the zanzibar contract"]


async def test_the_same_ids(library: Library) -> None:
    """Tenants whose documents and chunks have the same ids each find their own."""
    one = await library.add("one", "mine", vectors=[QUESTION])
    two = await library.add("two", "yours", vectors=[QUESTION])
    await library.admin.execute("DELETE FROM knowledge_chunks WHERE document_id = $1", two)
    await library.admin.execute("UPDATE knowledge_documents SET id = $1 WHERE id = $2", one, two)
    await library.admin.execute(
        "INSERT INTO knowledge_chunks (tenant_id, id, document_id, position, content, embedding)"
        " SELECT $1, id, document_id, 0, 'yours', embedding FROM knowledge_chunks"
        "  WHERE tenant_id = $2",
        *(library.tenants["two"], library.tenants["one"]),
    )
    for name, content in (("one", "mine"), ("two", "yours")):
        async with library.db.tenant(library.tenants[name]) as tx:
            for hits in (
                await vector_search(tx, QUESTION),
                await keyword_search(tx, content),
                await keyword_search(tx, content[1:]),
                await hybrid_search(tx, text=content, embedding=QUESTION),
            ):
                assert contents(hits) == [content]
                assert hits[0].document_id == one


async def test_errors_quote_nobody(library: Library) -> None:
    """A question that PostgreSQL refuses is answered without a row of anybody's."""
    with pytest.raises(DBAPIError) as refused:
        async with library.db.tenant(library.tenants["tenant1"]) as tx:
            await tx.execute(
                sql(
                    "SELECT * FROM tenantry.search_keywords('refund', '{}', '[]', '{}', NULL, -1,"
                    " CAST('$.kind == \"policy\"' AS jsonpath), true)"
                )
            )
    assert "owner" not in str(refused.value)
