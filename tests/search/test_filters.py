"""Filters on metadata, judged against a model of them in Python."""

from __future__ import annotations

import enum
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings

from tenantry.errors import InvalidValueError
from tenantry.search import hybrid_search, keyword_search, vector_search
from tenantry.search.filters import filter_path
from tests.conftest import Server
from tests.search.filter_model import filters, holds, metadata
from tests.search.library import QUESTION, Library, library_on, vector


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template) as library:
        yield library


JUDGED = "SELECT $1::text::jsonb @@ $2::text::jsonpath"


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=filters, document=metadata)
async def test_filters_are_what_their_model_is(
    library: Library, where: dict[str, Any], document: dict[str, Any]
) -> None:
    """Each operator, and all of them combined, lets through what its documentation says."""
    path = filter_path(where)
    found = path is None or await library.admin.fetchval(JUDGED, json.dumps(document), path)
    assert bool(found) is holds(where, document), path


class Colour(int, enum.Enum):
    RED = 3


class Shape(enum.StrEnum):
    ROUND = "round"


class Precise(float):
    """A number whose repr is none, as NumPy's are."""

    def __repr__(self) -> str:
        return f"precise({float(self)})"


@pytest.mark.parametrize(
    ("where", "document"),
    [
        ({"a": Colour.RED}, {"a": 3}),
        ({"a": Shape.ROUND}, {"a": "round"}),
        ({"a": Precise(1.5)}, {"a": 1.5}),
        ({"a": 10**1000}, {"a": 10**1000}),
        ({"a": {"$lt": -1}}, {"a": -2}),
        ({"since": {"$gte": "2024-02-29", "$lt": "2024-03-01"}}, {"since": "2024-02-29T23:59"}),
        ({"a.b.c": 1}, {"a": [{"b": {"c": [2, 1]}}]}),
        ({"a": {"$in": range(200)}}, {"a": 199}),
        ({"": 1}, {"": 1}),
        ({}, {"a": 1}),
        ({"$or": [{}, {"a": 2}]}, {"a": 1}),
        ({"$not": {"a": {"$gt": 1}}}, {"a": "text"}),
        ({"x" * 5000: "y" * 100_000}, {"x" * 5000: "y" * 100_000}),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_values_of_all_kinds(
    library: Library, where: dict[str, Any], document: dict[str, Any]
) -> None:
    """Numbers of enumerations and libraries, dates, long and empty names are compared by value."""
    path = filter_path(where)
    assert path is None or await library.admin.fetchval(JUDGED, json.dumps(document), path)
    assert path is None or filter_path({"$not": where})
    assert path is None or not await library.admin.fetchval(
        JUDGED, json.dumps(document), filter_path({"$not": where})
    )


def nested(levels: int) -> dict[str, Any]:
    where: dict[str, Any] = {"a": 1}
    for _ in range(levels):
        where = {"$not": where}
    return where


endless: dict[str, Any] = {}
endless["$and"] = [endless]

REFUSED: list[Any] = [
    [],
    "a",
    7,
    {1: 2},
    {"a": {}},
    {"a": {"$regex": "x"}},
    {"a": {"$where": "1"}},
    {"a": {"b": 1}},
    {"a": {1: 1}},
    {"a": []},
    {"a": [1]},
    {"a": {"$in": []}},
    {"a": {"$in": "abc"}},
    {"a": {"$in": b"abc"}},
    {"a": {"$in": 1}},
    {"a": {"$in": [[1]]}},
    {"a": {"$in": range(10**9)}},
    {"a": {"$nin": list(range(257))}},
    {"a": {"$exists": 1}},
    {"a": {"$prefix": 1}},
    {"a": {"$gt": {}}},
    {"a": object()},
    {"a": b"x"},
    {"a": float("nan")},
    {"a": float("-inf")},
    {"a": 10**5000},
    {"a": "\0"},
    {"a": "\ud800"},
    {"\0": 1},
    {"\udfff": 1},
    {"$and": []},
    {"$and": {}},
    {"$or": "ab"},
    {"$or": [1]},
    {"$not": []},
    {"$nor": [{}]},
    {"$a": 1},
    {".".join("a" * 10_000): 1},
    {"$or": [{}] * 100_000},
    {"$and": [{str(n): n} for n in range(257)]},
    nested(17),
    endless,
]


@pytest.mark.parametrize("where", REFUSED, ids=[f"refused{n}" for n in range(len(REFUSED))])
def test_what_is_no_filter_is_refused(where: Any) -> None:
    """Whatever is not understood, or too much, is named before anything is sent."""
    with pytest.raises(InvalidValueError):
        filter_path(where)


async def test_the_most_that_is_allowed(library: Library) -> None:
    """Sixteen levels and 256 conditions are answered."""
    document = json.dumps({"a": 1, "k": {"k": 255}})
    for where in (nested(16), {"k.k": {"$in": list(range(256))}}, {"$not": {"k.k": 256}}):
        assert await library.admin.fetchval(JUDGED, document, filter_path(where))


async def test_all_searches_filter(library: Library) -> None:
    """Vectors, words, letters and both find only in documents that the filter lets through."""
    for year in (2023, 2024, 2025):
        text = f"refund of {year}"
        await library.add(
            "a", text, vectors=[vector(0.5)], metadata={"year": year}, embedding=vector(0.5)
        )
    await library.add("b", "refund of b", vectors=[QUESTION], metadata={"year": 2025})
    where = {"year": {"$gt": 2023}, "colour": {"$ne": "red"}}
    async with library.db.tenant(library.tenants["a"]) as tx:
        found = [
            await vector_search(tx, QUESTION, where=where),
            await vector_search(tx, QUESTION, where=where, documents=True),
            await keyword_search(tx, "refund", where=where),
            await keyword_search(tx, "efun", where=where),
            await hybrid_search(tx, text="refund", embedding=QUESTION, where=where),
        ]
        none = await vector_search(tx, QUESTION, where={"unknown": 1})
    for hits in found:
        assert {hit.content for hit in hits} == {"refund of 2024", "refund of 2025"}
    assert none == []


async def test_the_index_is_used(library: Library) -> None:
    """A filter within the search function goes by the index on metadata, and its value with it."""
    tenant = await library.tenant("many")
    await library.admin.execute(
        "INSERT INTO knowledge_documents (tenant_id, id, title, content, metadata)"
        " SELECT $1, gen_random_uuid(), 't', 'c', jsonb_build_object('n', n)"
        " FROM generate_series(1, 5000) n",
        tenant,
    )
    await library.admin.execute("VACUUM ANALYZE knowledge_documents")
    asked = "SELECT cardinality(tenantry.filtered_documents($1, $2::text::jsonpath))"

    async def blocks(path: str) -> int:
        """How many blocks of the table one call has touched."""
        async with library.admin.transaction():
            before = await _touched(library.admin)
            assert await library.admin.fetchval(asked, tenant, path) == 1
            return await _touched(library.admin) - before

    path = filter_path({"$and": [{"n": 77}, {"n": {"$lt": 100}}]})
    assert path is not None
    assert await blocks(path) < 10
    assert await blocks("$.n + 0 == 77") > 50, "the same without the index, or this proves nothing"


async def _touched(connection: asyncpg.Connection) -> int:
    return int(
        await connection.fetchval(
            "SELECT pg_stat_get_xact_blocks_fetched('knowledge_documents'::regclass)"
        )
    )
