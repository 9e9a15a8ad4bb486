"""Searches that fail halfway, and what else goes on on their connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from pgvector import Vector
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import bindparam, literal, select, text
from sqlalchemy.exc import DBAPIError

from tenantry.errors import SessionUseError, TransactionUndoneError
from tenantry.knowledge import Chunk, add_document, load_chunks
from tenantry.schema import EMBEDDING_DIMENSIONS, KnowledgeChunk, KnowledgeDocument
from tenantry.schema.base import uuid7
from tenantry.search import Hit, hybrid_search, keyword_search, vector_search
from tenantry.search.planning import VectorSearch, planned
from tenantry.tenancy.copying import copy_rows
from tenantry.tenancy.driver import BoundConnection
from tenantry.tenancy.sessions import TenantSession
from tests.conftest import Server
from tests.search.library import QUESTION, Library, contents, library_on, vector

WORDS = ["refund policy", "opening hours"]
TABLES = {False: "knowledge_chunks", True: "knowledge_documents"}


SEARCHES: list[Callable[[TenantSession], Awaitable[list[Hit]]]] = [
    lambda tx: vector_search(tx, QUESTION),
    lambda tx: vector_search(tx, QUESTION, documents=True),
    lambda tx: vector_search(tx, QUESTION, where={"n": {"$exists": False}}),
    lambda tx: hybrid_search(tx, text="refund", embedding=QUESTION),
    lambda tx: keyword_search(tx, "refund"),
]
FOUND = [2, 1, 2, 2, 1]


@pytest.fixture
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    """A tenant's sessions, all on one connection, one after the other."""
    async with library_on(server, template, pool_size=1) as library:
        await library.add("a", *WORDS, vectors=[vector(0.9), vector(0.1)], embedding=vector(0.5))
        yield library


def session(library: Library) -> contextlib.AbstractAsyncContextManager[TenantSession, bool | None]:
    return library.db.tenant(library.tenants["a"])


def first(stored: Sequence[float] | None) -> float:
    """The first number of a vector that was read: its similarity with the question."""
    assert stored is not None
    assert len(stored) == EMBEDDING_DIMENSIONS
    return round(float(stored[0]), 5)


async def vectors_work(library: Library) -> None:
    """The ORM reads and writes vectors, and a search finds them."""
    async with session(library) as tx:
        stored = (await tx.scalars(select(KnowledgeChunk.embedding))).all()
        assert sorted(first(each) for each in stored) == [0.1, 0.9]
        document = KnowledgeDocument(title="t", content="c", embedding=vector(0.7))
        tx.add(document)
        await tx.flush()
        await tx.refresh(document)
        assert first(document.embedding) == 0.7
        assert contents(await vector_search(tx, QUESTION)) == WORDS
        await tx.rollback()


async def forget_connections(library: Library) -> None:
    """Have the pool empty."""
    async with session(library) as tx:
        await (await tx.connection()).invalidate()
        await tx.rollback()


async def search_of_7(library: Library, documents: bool, *before: str) -> list[Hit]:
    """A search that is planned, but whose statement is not prepared on the connection."""
    async with session(library) as tx:
        for each in before:
            await tx.execute(text(each))
        return await vector_search(tx, QUESTION, k=7, documents=documents)


@pytest.fixture(params=[False, True], ids=["chunks", "documents"])
async def locked(library: Library, request: pytest.FixtureRequest) -> AsyncIterator[bool]:
    """Whether documents are searched, whose table is locked: to prepare a statement waits."""
    async with session(library) as tx:
        await planned(tx, VectorSearch(7, None, 0.97, request.param))
    transaction = library.admin.transaction()
    await transaction.start()
    await library.admin.execute(f"LOCK {TABLES[request.param]} IN ACCESS EXCLUSIVE MODE")
    yield request.param
    if library.admin.is_in_transaction():
        await transaction.rollback()


async def until_it_waits(library: Library) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    while not await library.admin.fetchval(waiting):  # noqa: ASYNC110 - it is the server that waits
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("setting", "error"),
    [("lock_timeout", TransactionUndoneError), ("statement_timeout", DBAPIError)],
)
async def test_a_timeout_while_preparing(
    library: Library, locked: bool, setting: str, error: type[Exception]
) -> None:
    """The error says which it was, and the connection's next sessions read and write vectors."""
    with pytest.raises(error) as caught:
        await search_of_7(library, locked, f"SET LOCAL {setting} = '30ms'")
    if isinstance(caught.value, DBAPIError):
        assert getattr(caught.value.orig, "sqlstate", None) == "57014"
    await library.admin.execute("ROLLBACK")
    await vectors_work(library)


async def test_a_deadline_while_preparing(library: Library, locked: bool) -> None:
    """Who waits no longer gets a TimeoutError, and the next one a connection that works."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await search_of_7(library, locked)
    await library.admin.execute("ROLLBACK")
    await vectors_work(library)


async def test_a_cancellation_while_preparing(library: Library, locked: bool) -> None:
    """A search that is cancelled ends as cancelled, and leaves a connection that works."""
    task = asyncio.create_task(search_of_7(library, locked))
    await until_it_waits(library)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await library.admin.execute("ROLLBACK")
    await vectors_work(library)


async def test_a_column_that_changes_its_type(library: Library) -> None:
    """Statements that are prepared on a connection outlive no change of what they give: the next
    search of each kind may fail, and no other."""

    async def found(number: int) -> int:
        async with session(library) as tx:
            return len(await SEARCHES[number](tx))

    async def go_on(numbers: Sequence[int]) -> None:
        for number in numbers:
            with contextlib.suppress(DBAPIError):
                assert await found(number) == FOUND[number]
            for _ in range(3):
                assert await found(number) == FOUND[number]

    assert [await found(number) for number in range(len(FOUND))] == FOUND
    await library.admin.execute("ALTER TABLE knowledge_documents ALTER title TYPE varchar")
    await go_on([0, 1])  # the search functions say what they give, and that is text
    await library.admin.execute("ALTER TABLE knowledge_documents ALTER title TYPE text")
    await go_on(range(len(FOUND)))


@pytest.fixture(params=["direct", "pooled"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How vectors go: in binary, or as arrays, as they do behind a pooler."""

    async def nothing(_: BoundConnection) -> None:
        pass

    if request.param == "pooled":
        monkeypatch.setattr(BoundConnection, "exchange_vectors_in_binary", nothing)
    return str(request.param)


@pytest.mark.usefixtures("exchange")
@pytest.mark.parametrize("path", ["pg_catalog", "''", "pg_temp"])
async def test_the_search_path_decides_nothing(library: Library, path: str) -> None:
    """Wherever the caller looks for names, searches find what they found before."""
    async with session(library) as tx:
        await tx.execute(text(f"SET LOCAL search_path = {path}"))
        assert contents(await vector_search(tx, QUESTION)) == WORDS
        assert len(await vector_search(tx, QUESTION, documents=True)) == 1
        assert len(await vector_search(tx, QUESTION, where={"n": {"$exists": False}})) == 2
        assert len(await hybrid_search(tx, text="refund", embedding=QUESTION)) == 2
        assert len(await keyword_search(tx, "refund")) == 1
        assert len(await keyword_search(tx, "efun")) == 1


async def test_vectors_in_every_form_on_one_connection(exchange: str, library: Library) -> None:
    """The ORM's vectors, text, pgvector's own type, bulk loading and searches take turns."""
    own = bindparam("v", type_=VECTOR(1024))
    distance = text("SELECT embedding <=> :v FROM knowledge_chunks ORDER BY 1").bindparams(own)
    async with session(library) as tx:
        pid = (await tx.driver()).get_server_pid()
        assert (await tx.driver()).binary_vectors is (exchange == "direct")
        for n in range(2):
            assert contents(await vector_search(tx, QUESTION, k=2)) == WORDS
            for given in (QUESTION, Vector(QUESTION)):
                near = (await tx.scalars(distance, {"v": given})).all()
                assert round(near[0], 5) == 0.1
            by_orm = KnowledgeChunk.embedding.cosine_distance(literal(QUESTION, VECTOR(1024)))
            assert round(await tx.scalar(select(by_orm).order_by(by_orm).limit(1)) or 0, 5) == 0.1
            as_text = text(
                "SELECT CAST(CAST(:v AS text) AS vector) <=> embedding"
                "  FROM knowledge_chunks ORDER BY 1 LIMIT 1"
            )
            assert round(await tx.scalar(as_text, {"v": str(QUESTION)}) or 0, 5) == 0.1
            document = await add_document(tx, title="t", content="c", embedding=vector(0.3))
            await load_chunks(tx, [Chunk("loaded", vector(0.05))], document_id=document)
            stored = await tx.get_one(KnowledgeDocument, document)
            await tx.refresh(stored)
            assert first(stored.embedding) == 0.3
            assert contents(await vector_search(tx, QUESTION, k=2)) == WORDS
            assert "loaded" in contents(await vector_search(tx, QUESTION, k=3 + n))
        assert (await tx.driver()).get_server_pid() == pid


async def test_bulk_copies_beside_the_orm(exchange: str, library: Library) -> None:
    """An operator copies vectors and reads them, on one connection and in either order."""
    del exchange
    tenant = library.tenants["a"]
    columns = ["tenant_id", "id", "title", "content", "embedding"]
    async with library.db.operator(reason="test") as tx:
        for n in range(2):
            id_ = uuid7()
            rows = [(tenant, id_, "copied", "c", vector(0.4 + n / 10))]
            table: Any = KnowledgeDocument.__table__
            assert await copy_rows(tx, table, rows, columns=columns) == 1
            query = select(KnowledgeDocument.embedding).where(KnowledgeDocument.id == id_)
            stored = await tx.scalar(query)
            assert first(stored) == 0.4 + n / 10


@pytest.mark.parametrize("state", ["unconnected", "new", "begun"])
@pytest.mark.parametrize("numbers", [[0, 0], [0, 3], [4, 2], [0, 1, 2, 3, 4]])
async def test_searches_of_one_session_at_once(
    library: Library, numbers: list[int], state: str
) -> None:
    """A session does one thing at a time: one search is done, others are refused in our words."""
    if state == "unconnected":  # there is no connection in the pool, and to open one takes a while
        await forget_connections(library)
    async with session(library) as tx:
        if state == "begun":
            await tx.execute(text("SELECT 1"))
        outcomes = await asyncio.gather(
            *(SEARCHES[number](tx) for number in numbers), return_exceptions=True
        )
    found = [
        len(outcome) == FOUND[number]
        for number, outcome in zip(numbers, outcomes, strict=True)
        if isinstance(outcome, list)
    ]
    refused = [type(each) for each in outcomes if not isinstance(each, list)]
    assert found == [True]
    assert refused == [SessionUseError] * (len(numbers) - 1)
    await vectors_work(library)
