"""Arguments that no search can do anything with, and hits taken apart."""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tenantry.errors import InvalidValueError, TenantRequiredError
from tenantry.search import (
    Highlight,
    Hit,
    explain_vector_search,
    hybrid_search,
    keyword_search,
    vector_search,
)
from tests.conftest import Server
from tests.search.library import QUESTION, Library, library_on


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template) as library:
        await library.add("a", "word", vectors=[QUESTION])
        yield library


class _Undecided:
    """What an array of several does when it is compared."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ValueError(other)


NAN, INF = float("nan"), float("inf")
OF_K: list[Any] = [0, -1, 1001, 10**12, 10**5000, True, 1.0, "10", None, NAN]
OF_RECALL: list[Any] = [0, 0.49, 1.01, -1, NAN, INF, 10**400, "0.9", None, True]
OF_SIMILARITY: list[Any] = [-1.01, 1.01, NAN, INF, 10**400, "0", False]
OF_WEIGHT: list[Any] = [-0.01, 1.01, NAN, -INF, "1", None, True]
OF_DOCUMENTS: list[Any] = [[], ["d"], "yes", "", 0, 1, 1.0, None, {}, NAN]
OF_LANGUAGE: list[Any] = [
    "",
    "English",
    "klingon",
    "pg_catalog.english",
    "x" * 10**6,
    7,
    ["english"],
    _Undecided(),
]
OF_TEXT: list[Any] = [None, 7, b"word", ["word"], {"text": "word"}]
OF_VECTOR: list[Any] = [
    *([], [1.0], [1.0] * 1023, [1.0] * 1025, [0.0] * 1024, [[1.0]] * 1024),
    *([NAN] + [1.0] * 1023, [1.0] * 1023 + [INF], [1e39] + [0.0] * 1023, [1e-46] * 1024),
    *(["1"] * 1024, [None] * 1024, [1j] * 1024, [10**400] * 1024),
    *(None, 7, "1" * 1024, b"1" * 1024, dict.fromkeys(range(1024), 1.0), set(range(1024))),
]


def cases(values: list[Any], name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        name, values, ids=[f"{type(v).__name__}{n}" for n, v in enumerate(values)]
    )


@cases(OF_K, "k")
async def test_k(library: Library, k: Any) -> None:
    """k is a whole number from 1 to 1,000 everywhere."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        for search in (
            vector_search(tx, QUESTION, k=k),
            keyword_search(tx, "word", k=k),
            hybrid_search(tx, text="word", embedding=QUESTION, k=k),
            explain_vector_search(tx, k=k),
        ):
            with pytest.raises(InvalidValueError, match=r"^k is .* from 1 to 1,000 is required"):
                await search


class _Page(int, enum.Enum):
    SEVEN = 7


class _Word(str, enum.Enum):  # noqa: UP042 - unlike StrEnum's, its str() is "_Word.ENGLISH"
    ENGLISH = "english"
    AT_LEAST = "$gte"


async def test_k_of_an_enumeration(library: Library) -> None:
    """An int of another class is its number, for this search and for all that follow."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        for k in (_Page.SEVEN, 7):
            assert len(await vector_search(tx, QUESTION, k=k)) == 1
            assert len(await keyword_search(tx, "word", k=k)) == 1
            assert len(await hybrid_search(tx, text="word", embedding=QUESTION, k=k)) == 1


async def test_words_of_an_enumeration(library: Library) -> None:
    """A language and an operator may be members of an enumeration of strings."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        (hit,) = await keyword_search(tx, "words -others", language=_Word.ENGLISH)
        assert hit.content == "word"
        assert await vector_search(tx, QUESTION, where={"year": {_Word.AT_LEAST: 1}}) == []


@cases(OF_VECTOR, "embedding")
async def test_vector(library: Library, embedding: Any) -> None:
    """A vector has 1,024 finite numbers that are not all zero."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        with pytest.raises(InvalidValueError, match="embedding"):
            await vector_search(tx, embedding)
        with pytest.raises(InvalidValueError, match="embedding"):
            await hybrid_search(tx, text="word", embedding=embedding)


@cases(OF_RECALL, "recall")
async def test_recall(library: Library, recall: Any) -> None:
    """A recall is a number from 0.5 to 1."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        for search in (
            vector_search(tx, QUESTION, recall=recall),
            hybrid_search(tx, text="word", embedding=QUESTION, recall=recall),
            explain_vector_search(tx, recall=recall),
        ):
            with pytest.raises(InvalidValueError, match="^recall is .* from 0.5 to 1 is required"):
                await search


@cases(OF_SIMILARITY, "least")
async def test_min_similarity(library: Library, least: Any) -> None:
    """A similarity is a number from -1 to 1."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        with pytest.raises(InvalidValueError, match="^min_similarity is"):
            await vector_search(tx, QUESTION, min_similarity=least)


@cases(OF_DOCUMENTS, "highlight")
async def test_highlight(library: Library, highlight: Any) -> None:
    """Whether hits are marked is True or False."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        for search in (
            keyword_search(tx, "word", highlight=highlight),
            hybrid_search(tx, text="word", embedding=QUESTION, highlight=highlight),
        ):
            with pytest.raises(InvalidValueError, match="^highlight is"):
                await search


@cases(OF_DOCUMENTS, "documents")
async def test_documents(library: Library, documents: Any) -> None:
    """Whether documents are searched is True or False, and nothing that only looks like it."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        for search in (
            vector_search(tx, QUESTION, documents=documents),
            vector_search(tx, QUESTION, where={"a": 1}, documents=documents),
            explain_vector_search(tx, documents=documents),
        ):
            with pytest.raises(InvalidValueError, match=r"^documents is a .*; True or False is"):
                await search


@cases(OF_WEIGHT, "weight")
async def test_vector_weight(library: Library, weight: Any) -> None:
    """A weight is a number from 0 to 1."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        with pytest.raises(InvalidValueError, match="^vector_weight is"):
            await hybrid_search(tx, text="word", embedding=QUESTION, vector_weight=weight)


@cases(OF_LANGUAGE, "language")
async def test_language(library: Library, language: Any) -> None:
    """A language is one of those that are known, by its exact name; the message stays short."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        with pytest.raises(InvalidValueError, match="^language is") as refused:
            await keyword_search(tx, "word", language=language)
        assert len(str(refused.value)) < 600
        with pytest.raises(InvalidValueError, match="^language is"):
            await hybrid_search(tx, text="word", embedding=QUESTION, language=language)


@cases(OF_TEXT, "wanted")
async def test_text(library: Library, wanted: Any) -> None:
    """A text is a str."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        with pytest.raises(InvalidValueError, match="^text is a"):
            await keyword_search(tx, wanted)
        with pytest.raises(InvalidValueError, match="^text is a"):
            await hybrid_search(tx, text=wanted, embedding=QUESTION)


async def test_only_a_tenant_searches(library: Library) -> None:
    """An operator's session, which sees all tenants, is refused, and what is no session as well."""
    async with library.db.operator(reason="test") as operator:
        for tx in (operator, None, library.db):
            session: Any = tx
            for search in (
                vector_search(session, QUESTION),
                keyword_search(session, "word"),
                hybrid_search(session, text="word", embedding=QUESTION),
                explain_vector_search(session),
            ):
                with pytest.raises(TenantRequiredError, match="needs a tenant's session"):
                    await search


# Hits


def test_highlight_of_letters() -> None:
    """What stands in a text in whatever case is marked, with some text around it."""
    text = "a" * 500 + " NEEDLE <needle> " + "b" * 5000
    highlight = Highlight.of(text, re.compile("needle", re.IGNORECASE))
    assert highlight is not None
    assert [part for part, matches in highlight.parts if matches] == ["NEEDLE", "needle"]
    assert highlight.html("i").count("<i>") == 2
    assert "&lt;<i>needle</i>&gt;" in highlight.html("i")
    assert len(str(highlight)) == 100 + len("needle") + 400


@pytest.mark.parametrize("wanted", [None, re.compile("absent")])
def test_no_highlight_without_a_match(wanted: re.Pattern[str] | None) -> None:
    """Nothing to mark is no highlight."""
    assert Highlight.of("a needle", wanted) is None


@pytest.mark.parametrize(
    ("marked", "parts"),
    [
        ("", ()),
        ("plain", (("plain", False),)),
        ("\ue000all\ue001", (("all", True),)),
        (
            "a \ue000b\ue001\ue000c\ue001 d",
            (("a ", False), ("b", True), ("c", True), (" d", False)),
        ),
    ],
)
def test_marks_are_taken_apart(marked: str, parts: tuple[tuple[str, bool], ...]) -> None:
    """Matches are what stands between the marks."""
    assert Highlight.from_marked(marked).parts == parts


def test_hits_are_values() -> None:
    """A hit cannot be changed, and equals its like."""
    one = Hit(id=uuid4(), document_id=uuid4(), title="t", content="c", score=1.0)
    with pytest.raises(AttributeError):
        one.score = 2.0  # type: ignore[misc]
    assert one == Hit(one.id, one.document_id, "t", "c", 1.0)
    assert one.highlight is None
