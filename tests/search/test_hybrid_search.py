"""Search by words and vector at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tenantry import Database, Settings
from tenantry.search import hybrid_search, keyword_search, vector_search
from tests.conftest import Server
from tests.search.library import QUESTION, Library, contents, library_on, vector
from tests.tenancy.wire import recorded

WORDS = "red apple"
BOTH_WAYS = "a red apple and a green pear"
BY_WORDS = "red apple, red apple, red apple"
BY_VECTOR = "something else entirely"
NO_VECTOR = "one apple that nobody embedded"
NEITHER = "nothing to do with it"


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template) as library:
        await library.add(
            "a",
            *(BOTH_WAYS, BY_WORDS, BY_VECTOR, NO_VECTOR, NEITHER),
            vectors=[vector(0.8), vector(-0.2), vector(0.9), None, vector(0.0)],
        )
        # More than a pool holds: each word's rank and each vector's rank run against each other.
        await library.add(
            "wide",
            *(f"{'plum ' * (n + 1)}{'filler ' * 40}number{n}" for n in range(130)),
            vectors=[vector(0.99 - n / 200) for n in range(130)],
        )
        await library.add("bare", "an apple", "a pear")
        await library.add("alike", "an apple", "a pear", "fig", vectors=[vector(0.5)] * 3)
        await library.add("b", BOTH_WAYS, vectors=[QUESTION])
        yield library


async def found(
    library: Library, text: str, *, tenant: str = "a", k: int = 10, weight: float = 0.5
) -> list[str]:
    async with library.db.tenant(library.tenants[tenant]) as tx:
        hits = await hybrid_search(tx, text=text, embedding=QUESTION, k=k, vector_weight=weight)
    assert all(0 <= hit.score <= 1 for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.id for hit in hits}) == len(hits)
    return contents(hits)


async def test_both_pools(library: Library) -> None:
    """What both searches like is first, and what either finds is there."""
    hits = await found(library, WORDS)
    assert hits[0] == BOTH_WAYS
    assert set(hits) == {BOTH_WAYS, BY_WORDS, BY_VECTOR, NO_VECTOR, NEITHER}
    assert hits.index(BY_WORDS) < hits.index(NEITHER)
    assert hits.index(BY_VECTOR) < hits.index(NEITHER)


@pytest.mark.parametrize("text", ["", " ", "the", "!!!", "unheardof", "-", '""'])
async def test_without_words_the_vector_decides(library: Library, text: str) -> None:
    """No word, or none that the tenant has, gives the order of the vector search."""
    assert (await found(library, text))[:4] == [BY_VECTOR, BOTH_WAYS, NEITHER, BY_WORDS]


async def test_without_vectors_the_words_decide(library: Library) -> None:
    """Where nothing is embedded, there are the words' hits."""
    assert await found(library, "apple", tenant="bare") == ["an apple"]


@pytest.mark.parametrize("text", ["pear", "apple"])
async def test_equal_vectors_decide_nothing(library: Library, text: str) -> None:
    """Where all are as near, the words decide alone."""
    assert text in (await found(library, text, tenant="alike"))[0]


@pytest.mark.parametrize(
    ("text", "all_have", "none_has"),
    [
        ('"red apple"', "red apple", None),
        ('"green pear"', "green pear", None),
        ("apple -green", None, "green"),
        ('apple -"red apple"', None, "red apple"),
        ("-apple", None, "apple"),
        ('"red apple" -green', "red apple", "green"),
    ],
)
async def test_what_is_insisted_on_holds_for_every_hit(
    library: Library, text: str, all_have: str | None, none_has: str | None
) -> None:
    """Quotes and minus hold for what the vector has found as well."""
    hits = await found(library, text)
    assert hits
    for hit in hits:
        assert all_have is None or all_have in hit
        assert none_has is None or none_has not in hit


async def test_rounding_decides_nothing(library: Library) -> None:
    """Vectors of one direction and other lengths are equally near: the words decide."""
    if "rounded" not in library.tenants:
        await library.add(
            "rounded",
            *("apple apple pie", "pear pie", "fig apple"),
            vectors=[vector(0.5, scale=scale) for scale in (0.7, 0.3, 0.1234)],
        )
    async with library.db.tenant(library.tenants["rounded"]) as tx:
        hits = await hybrid_search(tx, text="apple", embedding=vector(0.5, scale=0.77))
    assert contents(hits) == ["apple apple pie", "fig apple", "pear pie"]


@pytest.mark.parametrize("text", ["-spam", "pork -spam", '-"spam"'])
async def test_what_is_excluded_does_not_crowd_out(library: Library, text: str) -> None:
    """Where more of the nearest than a pool holds are excluded, the next nearest are found."""
    if "crowded" not in library.tenants:
        await library.add(
            "crowded",
            *([f"spam {n}" for n in range(60)] + [f"ham {n}" for n in range(12)]),
            vectors=[vector(0.9 - n / 1000) for n in range(60)] + [vector(0.1)] * 12,
        )
    hits = await found(library, text, tenant="crowded")
    assert len(hits) == 10
    assert all(hit.startswith("ham") for hit in hits)


@pytest.mark.parametrize("k", [1, 10, 60, 130, 1000])
async def test_weights_at_either_end(library: Library, k: int) -> None:
    """With weight 1 the order is the vector search's, with 0 the keyword search's."""
    async with library.db.tenant(library.tenants["wide"]) as tx:
        vectors = contents(await vector_search(tx, QUESTION, k=k))
        words = contents(await keyword_search(tx, "plum", k=k))
    assert len(vectors) == len(words) == min(k, 130)
    assert await found(library, "plum", tenant="wide", k=k, weight=1) == vectors
    assert await found(library, "plum", tenant="wide", k=k, weight=0) == words
    assert words != vectors


async def test_the_weight_moves_the_order(library: Library) -> None:
    """Between the ends, both have a say."""
    first = [(await found(library, WORDS, weight=weight))[0] for weight in (0, 0.5, 1)]
    assert first == [BY_WORDS, BOTH_WAYS, BY_VECTOR]


async def test_one_round_trip(library: Library) -> None:
    """A warm hybrid search waits for the server once, besides the transaction's begin and end."""
    trips, hits = 0, []
    async with recorded(library.urls.app) as wire:
        settings = Settings(database_url=wire.url, pool_size=1)
        async with Database.connect(settings=settings) as db:
            for _ in range(2):
                async with db.tenant(library.tenants["a"]) as tx:
                    await hybrid_search(tx, text=WORDS, embedding=QUESTION)
                    before = wire.round_trips
                    hits = await hybrid_search(tx, text=f'{WORDS} "red"', embedding=QUESTION)
                    trips = wire.round_trips - before
    assert hits
    assert trips == 1
