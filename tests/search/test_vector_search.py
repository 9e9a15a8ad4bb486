"""Search by vectors, compared one by one and by the index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import text

from tenantry import TenantSession
from tenantry.errors import ConfigurationError
from tenantry.search import explain_vector_search, hybrid_search, planning, vector_search
from tests.conftest import Server
from tests.search.large import (
    AROUND,
    BOTH,
    MANY,
    as_tenant,
    asked_by_index,
    large_library,
    numbered,
)
from tests.search.library import QUESTION, Library, contents, vector


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with large_library(server, template) as library:
        yield library


# A tenant with few


async def test_nearest_first(library: Library) -> None:
    """All that have a vector come, by falling similarity, which is the score; ties by id."""
    async with as_tenant(library, "small") as tx:
        hits = await vector_search(tx, QUESTION, k=1000)
    assert contents(hits) == ["near", "twin", "twin", "far", "opposite"]
    assert [round(hit.score, 5) for hit in hits] == [0.9, 0.5, 0.5, 0.1, -1.0]
    assert hits[1].id < hits[2].id
    assert {(hit.title, hit.highlight) for hit in hits} == {("A title", None)}


@pytest.mark.parametrize(
    ("least", "found"), [(-1, 5), (0.1 - 1e-6, 4), (0.6, 1), (1, 0), (None, 5)]
)
async def test_least_similarity(library: Library, least: float | None, found: int) -> None:
    """What is less similar than asked for is left out."""
    async with as_tenant(library, "small") as tx:
        assert len(await vector_search(tx, QUESTION, min_similarity=least)) == found


async def test_documents_by_their_own_vectors(library: Library) -> None:
    """Whole documents are found by their own vector; one without is not."""
    async with as_tenant(library, "small") as tx:
        (hit,) = await vector_search(tx, QUESTION, documents=True)
    assert hit.id == hit.document_id
    assert hit.content.startswith("far near")
    assert round(hit.score, 5) == 0.3


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
async def test_length_does_not_matter(library: Library, scale: float) -> None:
    """A question is as good at any length that a float32 can have."""
    async with as_tenant(library, "small") as tx:
        hits = await vector_search(tx, vector(scale=scale), k=2)
    assert [round(hit.score, 5) for hit in hits] == [0.9, 0.5]


# Both plans


@BOTH
@pytest.mark.parametrize("k", [1, 10, 44])
async def test_both_plans_agree(library: Library, k: int, documents: bool) -> None:
    """The index finds what comparing finds, though others' vectors are all nearer."""
    async with as_tenant(library) as tx:
        await asked_by_index(tx)
        plan = await explain_vector_search(tx, k=k, documents=documents)
        assert plan.plan != "exact"
        assert (plan.candidates, plan.exact_up_to) == (AROUND * k + 1, AROUND * k)
        exact = await explain_vector_search(tx, k=k, recall=1, documents=documents)
        assert (exact.plan, exact.ef_search) == ("exact", None)
        by_index = await vector_search(tx, QUESTION, k=k, documents=documents)
        compared = await vector_search(tx, QUESTION, k=k, documents=documents, recall=1)
    assert contents(compared) == numbered("document" if documents else "chunk", *range(1, k + 1))
    assert len(by_index) == k
    assert len(set(contents(by_index)) & set(contents(compared))) >= 0.95 * k
    assert [hit.score for hit in by_index] == sorted((h.score for h in by_index), reverse=True)


@BOTH
@pytest.mark.parametrize(
    ("ef_search", "scanned"), [(44, 20_000), (400, 20_000), (44, 1)], ids=["narrow", "wide", "cut"]
)
@pytest.mark.parametrize("k", [1, 10, 44, 45, 450, 1000])
async def test_k_rows_whatever_the_index_gives(
    library: Library, k: int, ef_search: int, scanned: int, documents: bool
) -> None:
    """Where the index has too little room or ends early, and at the border, there are k rows."""
    async with as_tenant(library) as tx:
        await asked_by_index(tx, ef_search)
        await tx.execute(text(f"SET LOCAL hnsw.max_scan_tuples = {scanned}"))
        hits = await vector_search(tx, QUESTION, k=k, documents=documents)
    assert len({hit.id for hit in hits}) == min(k, MANY)


@BOTH
async def test_filters_on_a_large_tenant(library: Library, documents: bool) -> None:
    """Filters that let little, nearly all and nothing through are compared, indexed, and empty."""
    name = "document" if documents else "chunk"
    async with as_tenant(library) as tx:
        await asked_by_index(tx)
        for where, numbers in (({"rare": True}, [150, 300, 450]), ({"n": 0}, [])):
            plan = await explain_vector_search(tx, where=where, documents=documents)
            assert (plan.plan, plan.candidates) == ("exact", len(numbers))
            hits = await vector_search(tx, QUESTION, where=where, documents=documents)
            assert contents(hits) == numbered(name, *numbers)
        most = {"n": {"$gt": 30}}
        plan = await explain_vector_search(tx, where=most, documents=documents)
        assert plan.plan != "exact"
        hits = await vector_search(tx, QUESTION, where=most, documents=documents)
        near = set(numbered(name, *range(31, 41)))
        assert len(near & set(contents(hits))) >= 9
        assert not set(numbered(name, *range(31))) & set(contents(hits))


async def test_the_border_follows_what_was_measured(library: Library) -> None:
    """The database's setting moves the border; and the plan says what follows from it."""
    async with as_tenant(library) as tx:
        before = await explain_vector_search(tx)
        await asked_by_index(tx)
        after = await explain_vector_search(tx)
    assert before.plan == "exact"
    assert before.candidates == MANY < before.exact_up_to
    assert f"{MANY} candidates" in before.reason
    assert (after.exact_up_to, after.ef_search) == (100, 400)
    assert "the index of all tenants' vectors is asked, with ef_search 400; if it" in after.reason


@pytest.mark.parametrize(
    "setting",
    [
        "garbage",
        "[" * 100_000,
        '{"whole": {"roots": "wide", "least": 1, "ef_search": {}}}',
        '{"whole": {"roots": 1e300, "least": 1, "ef_search": {}}}',
        '{"whole": {"roots": 1, "least": 1.5, "ef_search": {}}}',
        '{"whole": {"roots": 1, "least": 1, "ef_search": 400}}',
        '{"whole": {"roots": 1, "least": 1, "ef_search": {"most": 400}}}',
    ],
    ids=lambda setting: setting[:60],
)
@pytest.mark.parametrize("search", ["vectors", "documents", "filtered", "hybrid", "explain"])
async def test_a_setting_that_cannot_be_read(library: Library, setting: str, search: str) -> None:
    """Every search that would go by it says which setting is wrong, and how it is mended."""
    planning._plans.clear()
    searches: dict[str, Callable[[TenantSession], Awaitable[object]]] = {
        "vectors": lambda tx: vector_search(tx, QUESTION),
        "documents": lambda tx: vector_search(tx, QUESTION, documents=True),
        "filtered": lambda tx: vector_search(tx, QUESTION, where={"n": {"$gt": 30}}),
        "hybrid": lambda tx: hybrid_search(tx, text="chunk", embedding=QUESTION),
        "explain": explain_vector_search,
    }
    async with as_tenant(library, "small") as tx:
        await tx.execute(
            text("SELECT set_config('tenantry.vector_search', :setting, true)"),
            {"setting": setting},
        )
        with pytest.raises(
            ConfigurationError,
            match=r"tenantry\.vector_search cannot be used: .*`tenantry knowledge tune`",
        ):
            await searches[search](tx)


async def test_no_setting_reaches_the_recall(library: Library) -> None:
    """Nothing but comparing has a recall of 1, and the plan says so."""
    async with as_tenant(library) as tx:
        await asked_by_index(tx)
        plan = await explain_vector_search(tx, recall=1)
    assert plan.plan == "exact"
    assert "no setting of the index" in plan.reason


async def test_the_index_of_a_part(library: Library) -> None:
    """Where the tenant's part has an index of its own, that one is asked, and finds the nearest."""
    number = await library.admin.fetchval(
        "SELECT tenantry.search_part($1)", library.tenants["large"]
    )
    name = f"knowledge_chunks_embedding_part_{number}_idx"
    await library.admin.execute(
        f"CREATE INDEX {name} ON knowledge_chunks USING hnsw"
        " ((l2_normalize(embedding)::halfvec(1024)) halfvec_ip_ops)"
        f" WHERE tenantry.search_part(tenant_id) = {number}"
    )
    try:
        async with as_tenant(library) as tx:
            for k in (1, 10, 44):
                await asked_by_index(tx)
                assert (await explain_vector_search(tx, k=k)).plan == "part"
                assert (await explain_vector_search(tx, k=k, documents=True)).plan == "whole"
                hits = await vector_search(tx, QUESTION, k=k)
                nearest = set(numbered("chunk", *range(1, k + 1)))
                assert len(hits) == k
                assert len(nearest & set(contents(hits))) >= 0.95 * k
                # Scores are of the full vectors, and not of the index's halved ones.
                assert all(
                    abs(hit.score - (0.98 - int(hit.content[6:]) / 1000)) < 1e-6 for hit in hits
                )
            most = await vector_search(tx, QUESTION, where={"n": {"$gt": 30}})
            assert len(set(contents(most)) & set(numbered("chunk", *range(31, 41)))) >= 9
            await tx.execute(text("SET LOCAL hnsw.max_scan_tuples = 1"))
            assert len(await vector_search(tx, QUESTION, k=44)) == 44
    finally:
        await library.admin.execute(f"DROP INDEX {name}")
