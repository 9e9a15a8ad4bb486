"""What the search functions ask of the database, from the plans of the statements in them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest
from asyncpg.connection import LoggedQuery

from tenantry.search import hybrid_search, keyword_search, vector_search
from tests.conftest import Server
from tests.search.explained import plans_within
from tests.search.large import (
    AROUND,
    BOTH,
    as_tenant,
    asked_by_index,
    large_library,
    numbered,
)
from tests.search.library import QUESTION, Library, contents, library_on

SECRET = "acquire wolpertinger"
OWN, OTHERS, WITH_SECRET = 2000, 2000, 300

DOCUMENTS = """
    INSERT INTO knowledge_documents (tenant_id, id, title, metadata, content)
    SELECT $1, gen_random_uuid(), 'A title', '{"n": 1}', repeat(md5(n::text) || ' ', 20)
           || CASE WHEN n <= $3::integer THEN $4::text ELSE 'nothing of that' END
      FROM generate_series(1, $2::integer) n
"""
CHUNKS = """
    INSERT INTO knowledge_chunks (tenant_id, id, document_id, position, content)
    SELECT tenant_id, id, id, 0, right(content, 40) FROM knowledge_documents
"""


@pytest.fixture(scope="module")
async def texts(server: Server, template: str) -> AsyncIterator[Library]:
    """A tenant that looks for a text that stands in others' documents, and in one of its own."""
    async with library_on(server, template) as library:
        for name, documents, secrets in (("own", OWN, 1), ("others", OTHERS, WITH_SECRET)):
            tenant = await library.tenant(name)
            await library.admin.execute(DOCUMENTS, tenant, documents, secrets, SECRET)
        await library.admin.execute(CHUNKS)
        await library.admin.execute("VACUUM ANALYZE knowledge_documents, knowledge_chunks")
        yield library


@pytest.mark.parametrize("wanted", ["wolperting", "acquire wolp", "wolpertingex", "LPERTIN"])
@pytest.mark.parametrize("filter_", ["NULL", "'$.n == 1'"])
async def test_nobody_elses_documents_are_opened(texts: Library, wanted: str, filter_: str) -> None:
    """Letter by letter, only the tenant's own documents are looked into, found by an index of its
    own: what another's opening takes would tell that the text is in it."""
    plans = await plans_within(
        texts.admin,
        texts.tenants["own"],
        f"SELECT * FROM tenantry.search_substrings('{wanted}', 10, {filter_})",
    )
    told = "\n".join(plans)
    assert "knowledge_documents_content_trgm_idx" not in told
    (plan,) = [each for each in plans if "word_similarity" in each]
    assert f"(tenant_id = '{texts.tenants['own']}'::uuid)" in plan
    if filter_ == "NULL":  # otherwise the filter's index does as well
        assert "Bitmap Index Scan on knowledge_documents_lower_content_trgm_idx" in plan
    removed = sum(map(int, re.findall(r"Rows Removed by .*?: (\d+)", plan)))
    assert removed <= 1, plan


async def test_letters_are_found_beside_others(texts: Library) -> None:
    """The one own document that has the text is found, and none of the others'."""
    async with texts.db.tenant(texts.tenants["own"]) as tx:
        (hit,) = await keyword_search(tx, "OLPERTINGE")
    assert hit.content.endswith(SECRET)


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with large_library(server, template) as library:
        yield library


TUNED = {"roots": 0, "least": 0, "ef_search": {"0.97": 400}}
BY_INDEX = f"SET LOCAL tenantry.vector_search = '{json.dumps({'whole': TUNED, 'part': TUNED})}'"


@BOTH
async def test_a_filter_of_many_documents_is_hashed(library: Library, documents: bool) -> None:
    """The index's rows are compared with an array that the planner sees, and can make a hash table
    of: to go through the array for each took a second for each 2,500 rows."""
    table, function = (
        ("knowledge_documents", "search_documents")
        if documents
        else ("knowledge_chunks", "search_vectors")
    )
    plans = await plans_within(
        library.admin,
        library.tenants["large"],
        f"SELECT * FROM tenantry.{function}('{QUESTION}', 10, '$.n > 30', 0.97)",
        BY_INDEX,
    )
    (plan,) = [each for each in plans if f"Index Scan using {table}_embedding_idx" in each]
    scan = plan[plan.index(f"Index Scan using {table}_embedding_idx") :]
    (condition,) = re.findall(r"^ +Filter: (.*)$", scan, re.MULTILINE)
    assert "ANY ('{" in condition
    assert "$" not in condition
    async with as_tenant(library) as tx:
        await asked_by_index(tx)
        hits = await vector_search(tx, QUESTION, where={"n": {"$gt": 30}}, documents=documents)
    near = set(numbered("document" if documents else "chunk", *range(31, 41)))
    assert len(near & set(contents(hits))) >= 9


@pytest.mark.parametrize("k", [1, 25, 26, 500, 501, 1000])
async def test_a_hybrid_search_of_any_k_asks_the_index(library: Library, k: int) -> None:
    """As many of the nearest are wanted as the index can be asked for: above, each of the tenant's
    chunks would be compared, however many there are."""
    sent: list[LoggedQuery] = []
    async with as_tenant(library) as tx:
        await asked_by_index(tx)
        with (await tx.driver()).query_logger(sent.append):
            hits = await hybrid_search(tx, text="chunk", embedding=QUESTION, k=k)
            await asyncio.sleep(0)  # the driver tells with the loop's next turn
        (pool,) = [each.args[8] for each in sent if "search_hybrid" in each.query]
        assert isinstance(pool, int)
        assert k <= pool <= 2 * k or pool == 50
        (plan,) = await (await tx.driver()).fetch(
            "SELECT * FROM tenantry.explain_vector_search($1, NULL, 0.97, false)", pool
        )
    assert plan["exact_up_to"] == AROUND * pool
    assert plan["ef_search"] >= pool
    assert len(hits) == min(k, 450)
