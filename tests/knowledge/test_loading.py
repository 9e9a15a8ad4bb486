"""Bulk loading of chunks by a tenant's session."""

from __future__ import annotations

import asyncio
import ctypes
import math
import struct
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from tenantry import Database, Settings
from tenantry.errors import (
    ConflictError,
    CrossTenantError,
    DatabaseUnavailableError,
    DocumentUnknownError,
    InvalidValueError,
    PrivilegeError,
    ReadOnlyError,
    SessionUseError,
    TransactionUndoneError,
)
from tenantry.knowledge import Chunk, add_document, load_chunks, loading
from tenantry.schema import EMBEDDING_DIMENSIONS, KnowledgeChunk
from tenantry.tenancy import vectors
from tenantry.tenancy.sessions import TenantSession
from tests.conftest import Server, TenantPair, Urls
from tests.pgbouncer import pgbouncer

UNIT = [1.0] + [0.0] * (EMBEDDING_DIMENSIONS - 1)


def vector(number: int) -> array[float]:
    return array("f", [float(number + 1), *range(1, EMBEDDING_DIMENSIONS)])


def matrix(vectors: Sequence[Sequence[float]], kind: Any = ctypes.c_float) -> Any:
    """A two-dimensional array, which shows itself by the buffer protocol as numpy's do."""
    return (kind * EMBEDDING_DIMENSIONS * len(vectors))(
        *((kind * EMBEDDING_DIMENSIONS)(*each) for each in vectors)
    )


@pytest.fixture
async def document(db: Database, tenants: TenantPair) -> UUID:
    async with db.tenant(tenants.a.id) as tx:
        return await add_document(tx, title="t", content="c")


async def rows(db: Database, tenants: TenantPair) -> list[KnowledgeChunk]:
    async with db.tenant(tenants.a.id) as tx:
        ordered = select(KnowledgeChunk).order_by(
            KnowledgeChunk.document_id, KnowledgeChunk.position
        )
        return list(await tx.scalars(ordered))


async def count(db: Database) -> int:
    async with db.operator(reason="test") as tx:
        return await tx.scalar(select(func.count()).select_from(KnowledgeChunk)) or 0


async def load(db: Database, tenants: TenantPair, chunks: Any, **options: Any) -> int:
    """Load in a transaction of its own."""
    async with db.tenant(tenants.a.id) as tx:
        return await load_chunks(tx, chunks, **options)


async def test_chunks_arrive_as_they_were_given(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Text and vector of each chunk are its own; what is not given is filled in."""
    chunks = [Chunk(f"ä{n}\U0001f600", vector(n)) for n in range(5)]
    assert await load(db, tenants, [*chunks, Chunk("x"), "y"], document_id=document) == 7
    found = await rows(db, tenants)
    assert [each.content for each in found] == [*(each.content for each in chunks), "x", "y"]
    assert [each.position for each in found] == list(range(7))
    vectors = [each.embedding and array("f", each.embedding) for each in found]
    assert vectors == [*map(vector, range(5)), None, None]
    assert {(each.tenant_id, each.document_id) for each in found} == {(tenants.a.id, document)}
    assert len({each.id for each in found}) == 7
    assert all(isinstance(each.created_at, datetime) for each in found)


KINDS = {
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
    "float32, big-endian": ctypes.c_float.__ctype_be__,
    "float64, big-endian": ctypes.c_double.__ctype_be__,
}


class WithGradients:
    """As a tensor of PyTorch that requires gradients."""

    def __array__(self) -> object:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def tolist(self) -> list[float]:
        return list(vector(3))


class AsArray:
    """As tensors of other libraries: no buffer, but a way to an array that has one."""

    def __init__(self, array: object) -> None:
        self._array = array

    def __array__(self) -> object:
        return self._array


GIVEN: dict[str, Any] = {
    **{name: lambda kind=kind: matrix([vector(3)], kind)[0] for name, kind in KINDS.items()},
    "array": lambda: vector(3),
    "array of doubles": lambda: array("d", vector(3)),
    "every second number": lambda: memoryview(array("f", [x for y in vector(3) for x in (y, 9)]))[
        ::2
    ],
    "list": lambda: list(vector(3)),
    "tuple": lambda: tuple(vector(3)),
    "integers": lambda: array("q", map(int, vector(3))),
    "tensor": lambda: AsArray(vector(3)),
    "tensor that requires gradients": WithGradients,
}


async def test_vectors_are_taken_in_every_form(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Lists, arrays of any float type and order, and what gives an array: all the same row."""
    chunks = [Chunk(name, make()) for name, make in GIVEN.items()]
    await load(db, tenants, chunks, document_id=document)
    for each in await rows(db, tenants):
        assert array("f", each.embedding or []) == vector(3), each.content


async def test_half_precision_is_widened() -> None:
    """float16, for which the standard library has no array, is read by its bytes."""
    for order in "<>=":
        data = struct.pack(f"{order}4e", 0.5, -2, 65504, 6e-8)
        assert vectors._native(data, f"{order}e") == array("f", [0.5, -2, 65504, 2**-24])


async def test_matrix_gives_each_chunk_its_row(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Texts and a two-dimensional array go in side by side, over several batches."""
    for kind in KINDS.values():
        embeddings = matrix([vector(n) for n in range(7)], kind)
        texts = (f"c{n}" for n in range(7))
        options = {"document_id": document, "embeddings": embeddings, "batch_size": 3}
        assert await load(db, tenants, texts, **options) == 7
    found = [(each.content, array("f", each.embedding or [])) for each in await rows(db, tenants)]
    assert found == [(f"c{n}", vector(n)) for n in range(7)] * len(KINDS)


MATRICES: list[tuple[Callable[[], Any], str]] = [
    (lambda: matrix([vector(0)] * 2), "row 2: embedding: there are fewer embeddings than chunks"),
    (lambda: matrix([vector(0)] * 4), "more embeddings than the 3 chunks"),
    (lambda: [vector(0)] * 2, "row 2: embedding: there are fewer"),
    (lambda: (vector(0) for _ in range(4)), "more embeddings than the 3"),
    (lambda: vector(0), r"array of shape \(1024,\) and format 'f'"),
    (lambda: memoryview(bytes(24)).cast("f", [3, 2]), r"shape \(3, 2\)"),
    (lambda: memoryview(bytes(12 * 1024)).cast("i", [3, 1024]), "format 'i'"),
    (lambda: "x" * 3, "embeddings is a str"),
    (lambda: 3, "embeddings is a int"),
    (
        lambda: matrix([vector(0), [math.nan, *UNIT[1:]], vector(0)]),
        r"row 1: embedding\[0\] is nan",
    ),
    (
        lambda: matrix([vector(0), vector(0), [*UNIT[1:], -math.inf]]),
        r"row 2: .*\[1023\] is -inf",
    ),
    (lambda: matrix([[0.0] * 1024] * 3), "row 0: embedding has length zero"),
    (lambda: matrix([[1e300] * 1024] * 3, ctypes.c_double), r"row 0: embedding\[0\] is inf"),
    (lambda: matrix([[1e-60] * 1024] * 3, ctypes.c_double), "length zero"),
]


async def test_array_that_does_not_fit_is_refused(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """An array of another shape or type, or with a vector that cannot be compared, is named."""
    for make, message in MATRICES:
        with pytest.raises(InvalidValueError, match=message):
            await load(db, tenants, ["x"] * 3, document_id=document, embeddings=make())
        assert await count(db) == 0, message


VECTORS: list[tuple[Any, str]] = [
    ([1.0] * 3, "has 3 dimensions"),
    ([], "has 0 dimensions"),
    (array("f", [1.0] * 3), "has 3 dimensions"),
    ([math.nan, *UNIT[1:]], r"\[0\] is nan"),
    (array("f", [*UNIT[:-1], math.inf]), r"\[1023\] is inf"),
    ([1e300, *UNIT[1:]], r"\[0\] is 1e\+300"),
    ([0.0] * EMBEDDING_DIMENSIONS, "length zero"),
    ([-0.0] * EMBEDDING_DIMENSIONS, "length zero"),
    ([1e-60] * EMBEDDING_DIMENSIONS, "length zero"),
    ([1e-13] * EMBEDDING_DIMENSIONS, "largest component is 1e-13"),
    (array("f", [-2e12, *UNIT[1:]]), r"largest component is 2e\+12"),
    ("x" * EMBEDDING_DIMENSIONS, "is a str"),
    (bytes(4 * EMBEDDING_DIMENSIONS), "is a bytes"),
    (["x"] * EMBEDDING_DIMENSIONS, "float32 numbers only"),
    (matrix([UNIT]), "is a c_float_Array_1024_Array_1; a sequence of 1024 numbers"),
    ([UNIT], "holds rows of numbers; one vector of 1024"),
    (3, "is a int"),
    (AsArray(3), "is a AsArray"),
]


async def test_a_session_that_is_in_use_is_said_so(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Of loads in one session at once, one is carried out, and the others say what to do."""
    async with db.tenant(tenants.a.id) as tx:
        await tx.execute(text("SELECT 1"))
        loads = [load_chunks(tx, ["x"] * 3, document_id=document) for _ in range(3)]
        done = await asyncio.gather(*loads, return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["SessionUseError"] * 2 + ["int"]
    assert "Give each task a session of its own" in str(done)
    assert await count(db) == 3


async def test_longest_and_shortest_vectors_can_be_compared(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Of each that is taken, PostgreSQL says that it is like itself and the others."""
    alike = [[length, *[length / 2] * (EMBEDDING_DIMENSIONS - 1)] for length in (1e-12, 1.0, 1e12)]
    await load(db, tenants, ["x"] * 3, document_id=document, embeddings=alike)
    compare = "SELECT max(a.embedding <=> b.embedding) FROM knowledge_chunks a, knowledge_chunks b"
    async with db.tenant(tenants.a.id) as tx:
        farthest = await tx.scalar(text(compare))
    assert farthest == pytest.approx(0, abs=1e-5)


async def test_bad_vector_is_refused_by_row(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """A vector without a cosine distance ends the load, names its row, and nothing stays."""
    for bad, message in VECTORS:
        chunks = [Chunk("x", UNIT), Chunk("x", UNIT), Chunk("x", bad), Chunk("x", UNIT)]
        with pytest.raises(InvalidValueError, match=f"chunks, row 2: embedding.*{message}"):
            await load(db, tenants, chunks, document_id=document, batch_size=1)
        assert await count(db) == 0, message


async def test_extreme_numbers_are_kept(db: Database, tenants: TenantPair, document: UUID) -> None:
    """The largest that can be compared, and the smallest float32, are numbers like others."""
    extreme = array("f", [1e12, -1e12, 1e-45, -0.0, *UNIT[4:]])
    smallest = array("f", [1e-12, 1e-30, *UNIT[2:]])
    await load(db, tenants, [Chunk("x", extreme), Chunk("x", smallest)], document_id=document)
    found = [array("f", each.embedding or []) for each in await rows(db, tenants)]
    assert found == [extreme, smallest]


class Odd:
    """Not a chunk."""


BAD_CHUNKS: list[tuple[Callable[[], object], str]] = [
    (lambda: Chunk("a\0b"), "content contains NUL"),
    (lambda: "a\0b", "content contains NUL"),
    (lambda: Chunk("a\ud800"), "content contains a lone surrogate"),
    (lambda: Chunk("x" * 17_000_000), "content is 17,000,000 bytes"),
    (lambda: Chunk(None), "content is a NoneType"),  # type: ignore[arg-type]
    (lambda: Chunk(b"x"), "content is a bytes"),  # type: ignore[arg-type]
    (lambda: Chunk("x", position=-1), "position is -1"),
    (lambda: Chunk("x", position=2**31), "position is 2147483648"),
    (lambda: Chunk("x", position=10**5000), "position is an int of many digits; 0 to"),
    (lambda: Chunk("x", position=1.5), "position is a float"),  # type: ignore[arg-type]
    (lambda: Chunk("x", position=True), "position is a bool"),
    (lambda: Chunk("x", document_id=uuid4()), "its document_id is .*, and all are loaded for"),
    (lambda: ("x", UNIT), "is a tuple; a Chunk, or a str"),
    (lambda: None, "is a NoneType"),
    (Odd, "is a Odd"),
]


async def test_bad_chunk_is_refused_by_row(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Text that PostgreSQL would refuse, places that do not exist and other things are named."""
    for make, message in BAD_CHUNKS:
        with pytest.raises(InvalidValueError, match=f"row 1:? ?{message}"):
            await load(db, tenants, ["fine", make()], document_id=document, batch_size=1)
        assert await count(db) == 0, message


async def test_no_iterable_of_chunks_is_refused(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """A single text is not taken for its letters."""
    for chunks in ("a text", b"bytes", None, 3, {"a text": UNIT}):
        with pytest.raises(InvalidValueError, match="an iterable of Chunk or str is required"):
            await load(db, tenants, chunks, document_id=document)


async def test_bad_options_are_named_before_anything_is_read(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """A size is a number of rows, and what is called for each batch can be called."""

    async def forgotten(rows: int) -> None:
        raise AssertionError(rows)  # nobody would await it

    bad: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 0}, "batch_size is 0; a whole number from 1"),
        ({"batch_size": -(10**5000)}, "batch_size is an int of many digits; a whole number"),
        *(
            ({"batch_size": size}, "batch_size is a .*; a whole number")
            for size in ("5", 1.5, True)
        ),
        ({"batch_size": None}, "batch_size is a NoneType; a whole number"),
        ({"on_batch": "print"}, "on_batch is a str; a function .* is required"),
        ({"on_batch": forgotten}, "on_batch is a coroutine function; a plain one is required"),
    ]
    for options, message in bad:
        with pytest.raises(InvalidValueError, match=message):
            await load(db, tenants, ["x"], document_id=document, **options)
    assert await count(db) == 0


async def test_positions_go_on_where_the_document_ends(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Chunks are appended, after those with a place of their own, over batches and loads."""
    await load(db, tenants, ["0", "1"], document_id=document)
    later: list[Chunk | str] = ["2", Chunk("7", position=7), "8", Chunk("3", position=3), "9"]
    await load(db, tenants, later, document_id=document, batch_size=2)
    found = [(each.position, each.content) for each in await rows(db, tenants)]
    assert found == [(n, str(n)) for n in (0, 1, 2, 3, 7, 8, 9)]


async def test_last_position_is_the_last(db: Database, tenants: TenantPair, document: UUID) -> None:
    """After the highest position that the column holds there is no next one."""
    with pytest.raises(InvalidValueError, match="row 1: the document has a chunk at the last"):
        await load(db, tenants, [Chunk("x", position=2**31 - 1), "y"], document_id=document)
    assert await count(db) == 0


@pytest.mark.parametrize("batch_size", [1, 10])
async def test_taken_position_is_a_conflict(
    db: Database, tenants: TenantPair, document: UUID, batch_size: int
) -> None:
    """A position that is taken, by an earlier row or in the table, ends the load."""
    await load(db, tenants, ["0"], document_id=document)
    twice = [Chunk("x", position=5), Chunk("x", position=6), Chunk("x", position=5)]
    with pytest.raises(ConflictError, match="chunks, row"):
        await load(db, tenants, twice, document_id=document, batch_size=batch_size)
    if batch_size > 1:
        with pytest.raises(ConflictError, match="row 2: position 5 of .* is row 0's already"):
            await load(db, tenants, twice, document_id=document, batch_size=batch_size)
    taken = [Chunk("x", position=0)]
    with pytest.raises(ConflictError, match="rows 0 to 0: a position is taken"):
        await load(db, tenants, taken, document_id=document, batch_size=batch_size)
    assert await count(db) == 1


async def test_many_documents_are_filled_at_once(db: Database, tenants: TenantPair) -> None:
    """Chunks of several documents may come in any order; each document counts for itself."""
    async with db.tenant(tenants.a.id) as tx:
        ids = [await add_document(tx, title=f"{n}", content="c", chunks=["0"]) for n in range(3)]
        chunks = [Chunk(f"{n}", document_id=ids[n % 3]) for n in range(30)]
        assert await load_chunks(tx, chunks, batch_size=4) == 30
    found = await rows(db, tenants)
    for place, document in enumerate(ids):
        own = [each for each in found if each.document_id == document]
        assert [each.position for each in own] == list(range(11))
        assert [each.content for each in own[1:]] == [str(n) for n in range(place, 30, 3)]


async def test_forgotten_documents_are_looked_up_again(
    db: Database, tenants: TenantPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more documents than are remembered, positions are right all the same."""
    monkeypatch.setattr(loading, "_DOCUMENTS_KEPT", 2)
    async with db.tenant(tenants.a.id) as tx:
        ids = [await add_document(tx, title=f"{n}", content="c") for n in range(5)]
        chunks = [Chunk("x", document_id=str(ids[n % 5])) for n in range(40)]
        assert await load_chunks(tx, chunks, batch_size=3) == 40
    found = [(each.document_id, each.position) for each in await rows(db, tenants)]
    assert found == [(document, n) for document in sorted(ids) for n in range(8)]


async def test_document_is_required(db: Database, tenants: TenantPair) -> None:
    """A chunk without a document is refused, before anything was asked."""
    with pytest.raises(InvalidValueError, match="row 0: its document is not given"):
        await load(db, tenants, ["x"])


async def test_other_tenants_document_is_as_unknown_as_any(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Row security is in force: B's load into A's document gets the error of one that is not."""
    for how in ("call", "chunk"):
        told = []
        for unknown in (document, uuid4()):
            given: list[Any] = ["x"] if how == "call" else [Chunk("x", document_id=unknown)]
            of = unknown if how == "call" else None
            with pytest.raises(DocumentUnknownError) as caught:
                async with db.tenant(tenants.b.id) as tx:
                    await load_chunks(tx, given, document_id=of)
            told.append(str(caught.value).replace(str(unknown), "ID"))
        assert told[0] == told[1]
    assert await count(db) == 0


async def test_rows_are_the_sessions_tenants(
    db: Database, tenants: TenantPair, document: UUID, admin: asyncpg.Connection
) -> None:
    """The policy sees each row: with one that lets nothing be written, nothing is."""
    await admin.execute(
        "CREATE POLICY nothing ON knowledge_chunks AS RESTRICTIVE FOR INSERT TO tenantry_app"
        " WITH CHECK (content <> 'forbidden')"
    )
    assert await load(db, tenants, ["allowed"], document_id=document) == 1
    with pytest.raises(CrossTenantError):
        await load(db, tenants, ["fine", "forbidden"], document_id=document)
    assert await count(db) == 1


async def test_id_that_is_none_is_unknown(db: Database, tenants: TenantPair) -> None:
    """What is no UUID is the id of no document."""
    unknown: Any
    for unknown in ("no uuid", 7, "x" * 100):
        with pytest.raises(DocumentUnknownError, match="a UUID or its text"):
            await load(db, tenants, ["x"], document_id=unknown)
        with pytest.raises(DocumentUnknownError, match="a UUID or its text"):
            await load(db, tenants, [Chunk("x", document_id=unknown)])


async def test_nothing_loads_nothing(db: Database, tenants: TenantPair, document: UUID) -> None:
    """No chunks are no error; a document that is not there still is."""
    assert await load(db, tenants, [], document_id=document) == 0
    assert await load(db, tenants, []) == 0
    with pytest.raises(DocumentUnknownError):
        await load(db, tenants, [], document_id=uuid4())


async def test_session_can_do_both_before_and_after(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """The ORM's own way of sending vectors is there before, between and after loads."""

    def by_orm(position: int) -> KnowledgeChunk:
        return KnowledgeChunk(document_id=document, content="o", embedding=UNIT, position=position)

    async def reading(tx: TenantSession) -> AsyncIterator[str]:
        for number in range(4):
            tx.add(by_orm(100 + number))
            await tx.flush()
            yield "x"

    for start in (10, 20):
        async with db.tenant(tenants.a.id) as tx:
            tx.add(by_orm(start))
            await load_chunks(tx, [Chunk("l", UNIT)], document_id=document)
            tx.add(by_orm(start + 5))
    async with db.tenant(tenants.a.id) as tx:
        await load_chunks(tx, reading(tx), document_id=document, batch_size=1)
        found = (await tx.scalars(select(KnowledgeChunk.embedding))).all()
    assert [each for each in found if each is not None] == [UNIT] * 10
    assert len(found) == 14


async def test_rows_can_come_from_the_same_session(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """A stream of the same transaction may be what is loaded: one connection does both."""
    await load(db, tenants, [f"{n}" for n in range(50)], document_id=document)
    async with db.tenant(tenants.a.id) as tx:
        copy = await add_document(tx, title="copy", content="c")
        statement = select(KnowledgeChunk.content).where(KnowledgeChunk.document_id == document)
        stream = await tx.stream_scalars(statement.order_by(KnowledgeChunk.position))
        assert await load_chunks(tx, stream, document_id=copy, batch_size=7) == 50
        of_copy = select(KnowledgeChunk.content).where(KnowledgeChunk.document_id == copy)
        found = (await tx.scalars(of_copy.order_by(KnowledgeChunk.position))).all()
    assert found == [f"{n}" for n in range(50)]


async def test_rows_are_taken_batch_by_batch(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """No more than two batches are held, one of them under way, and each is reported once in."""
    taken = 0
    seen: list[tuple[int, int]] = []

    def lazily() -> Iterator[str]:
        nonlocal taken
        for _ in range(25):
            taken += 1
            yield "x"

    def note(size: int) -> None:
        seen.append((size, taken))

    assert (
        await load(db, tenants, lazily(), document_id=document, batch_size=10, on_batch=note) == 25
    )
    assert [size for size, _ in seen] == [10, 10, 5]
    assert all(read <= inserted + 20 for inserted, (_, read) in zip((0, 10, 20), seen, strict=True))


async def test_long_texts_make_smaller_batches(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Memory depends on the text, too: a batch ends after 4 million characters."""
    seen: list[int] = []
    texts = ["x" * 1_500_000] * 7
    await load(db, tenants, texts, document_id=document, on_batch=seen.append)
    assert seen == [3, 3, 1]


async def test_error_leaves_nothing_and_the_transaction_goes_on(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """A load that fails, whoever fails it, is undone; what was written before it stays."""

    def broken(after: int) -> Iterator[str]:
        for number in range(after):
            yield f"gone {number}"
        raise RuntimeError("no more")

    def refuse(size: int) -> None:
        raise RuntimeError(f"no more than {size}")

    async with db.tenant(tenants.a.id) as tx:
        await load_chunks(tx, ["before"], document_id=document)
        for after in (0, 1, 5, 6, 7):
            with pytest.raises(RuntimeError, match="no more"):
                await load_chunks(tx, broken(after), document_id=document, batch_size=2)
        with pytest.raises(RuntimeError, match="no more than 2"):
            await load_chunks(tx, ["x"] * 25, document_id=document, batch_size=2, on_batch=refuse)
        with pytest.raises(ConflictError):
            await load_chunks(tx, [Chunk("x", position=0)], document_id=document)
        with pytest.raises(DocumentUnknownError):
            await load_chunks(tx, ["x"], document_id=uuid4())
        await load_chunks(tx, ["after"], document_id=document)
    found = [(each.position, each.content) for each in await rows(db, tenants)]
    assert found == [(0, "before"), (1, "after")]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("rows", "batch_size"), [(40, 4), (400, 100)])
async def test_cancelled_load_leaves_nothing(
    db: Database, tenants: TenantPair, document: UUID, is_async: bool, rows: int, batch_size: int
) -> None:
    """Cancelled at any moment nothing stays, and the pool goes on working."""
    many = [Chunk("x", vector(n)) for n in range(rows)]

    async def asynchronously() -> AsyncIterator[Chunk]:
        for chunk in many:
            yield chunk

    async def never_commit() -> None:
        async with db.tenant(tenants.a.id) as tx:
            given = asynchronously() if is_async else many
            await load_chunks(tx, given, document_id=document, batch_size=batch_size)
            await asyncio.Event().wait()

    for turns in (1, 3, 10, 20, 30, 40, 60, 80):
        task = asyncio.create_task(never_commit())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await count(db) == 0
    assert await load(db, tenants, many[:3], document_id=document) == 3


async def test_cancelled_batch_can_be_caught(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Cancelled while rows go in, the transaction can go on without them."""
    under_way = asyncio.Event()

    def many() -> Iterator[Chunk]:
        for number in range(2000):
            yield Chunk("x", vector(number))

    async with db.tenant(tenants.a.id) as tx:
        await load_chunks(tx, ["before"], document_id=document)
        task = asyncio.create_task(
            load_chunks(tx, many(), document_id=document, on_batch=lambda _: under_way.set())
        )
        await under_way.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await load_chunks(tx, ["after"], document_id=document)
    found = [(each.position, each.content) for each in await rows(db, tenants)]
    assert found == [(0, "before"), (1, "after")]


async def test_lost_connection_is_named(
    db: Database, tenants: TenantPair, document: UUID, admin: asyncpg.Connection
) -> None:
    """A server that goes away in the middle is one of our errors, and nothing stays."""

    async def given() -> AsyncIterator[str]:
        yield "before"
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        yield "after"

    with pytest.raises(DatabaseUnavailableError):
        await load(db, tenants, given(), document_id=document, batch_size=1)
    assert await count(db) == 0
    assert await load(db, tenants, ["x"], document_id=document) == 1


@pytest.fixture
async def taking(
    admin: asyncpg.Connection, tenants: TenantPair, document: UUID
) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of somebody else's that is about to take the document's position 3."""
    async with admin.transaction():
        await admin.execute(
            "INSERT INTO knowledge_chunks (tenant_id, document_id, content, position)"
            " VALUES ($1, $2, 'theirs', 3)",
            tenants.a.id,
            document,
        )
        yield admin


async def test_other_refusals_are_sqlalchemys(
    db: Database, tenants: TenantPair, document: UUID, taking: asyncpg.Connection
) -> None:
    """What PostgreSQL refuses for reasons of its own arrives as from the ORM, without values."""
    async with db.tenant(tenants.a.id) as tx:
        await tx.execute(text("SET LOCAL statement_timeout = '50ms'"))
        with pytest.raises(DBAPIError) as caught:
            await load_chunks(tx, [Chunk("secret", UNIT)] * 100, document_id=document)
        await tx.execute(text("SET LOCAL statement_timeout = 0"))
        assert await load_chunks(tx, ["x"], document_id=document) == 1
    assert getattr(caught.value.orig, "sqlstate", None) == "57014"
    assert "secret" not in str(caught.value)


async def test_a_lock_that_is_not_free_in_time_undoes_the_load(
    db: Database, tenants: TenantPair, document: UUID, taking: asyncpg.Connection
) -> None:
    """Nothing of the load is there, and the transaction can go on."""
    async with db.tenant(tenants.a.id) as tx:
        await tx.execute(text("SET LOCAL lock_timeout = '50ms'"))
        with pytest.raises(TransactionUndoneError, match="55P03"):
            await load_chunks(tx, [Chunk("secret", UNIT)] * 100, document_id=document)
        assert await load_chunks(tx, ["x"], document_id=document) == 1


def five_megabytes_for_position_three() -> list[Chunk]:
    """The row that has to wait is in a batch that no buffer on the way holds as a whole."""
    return [Chunk("x" * 6000, UNIT, position=(n - 700) % 2000) for n in range(2000)]


@pytest.mark.parametrize("times", [1, 2])
async def test_load_that_waits_for_a_lock_can_be_cancelled(
    db: Database,
    tenants: TenantPair,
    document: UUID,
    taking: asyncpg.Connection,
    times: int,
) -> None:
    """However long somebody holds a row, a cancelled load ends, and leaves nothing."""
    given = five_megabytes_for_position_three()
    task = asyncio.create_task(load(db, tenants, given, document_id=document))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    while not await taking.fetchval(waiting):  # noqa: ASYNC110 - it is the server that waits
        await asyncio.sleep(0.01)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert await count(db) == 0
    other = [Chunk("x", position=9)]
    assert await load(db, tenants, other, document_id=document) == 1


async def test_server_that_ends_while_rows_are_on_their_way_is_named(
    db: Database, tenants: TenantPair, document: UUID, taking: asyncpg.Connection
) -> None:
    """Much has not been taken yet when the server goes away: the load ends all the same."""
    given = five_megabytes_for_position_three()
    task = asyncio.create_task(load(db, tenants, given, document_id=document))
    waiting = "SELECT pid FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    while (pid := await taking.fetchval(waiting)) is None:  # noqa: ASYNC110 - the server waits
        await asyncio.sleep(0.01)
    await taking.execute("SELECT pg_terminate_backend($1)", pid)
    with pytest.raises(DatabaseUnavailableError):
        await asyncio.wait_for(task, 5)
    assert await count(db) == 0


async def test_the_drivers_limits_are_as_before(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Whoever sends much on the connection afterwards is paused as by any other."""

    async def limits() -> tuple[int, int]:
        raw: Any = (await (await tx.connection()).get_raw_connection()).driver_connection
        low, high = raw._transport.get_write_buffer_limits()
        return low, high

    async with db.tenant(tenants.a.id) as tx:
        before = await limits()
        await load_chunks(tx, ["x"], document_id=document)
        assert await limits() == before
        with pytest.raises(InvalidValueError):
            await load_chunks(tx, ["\0"], document_id=document)
        assert await limits() == before


async def test_rights_that_are_gone_are_named(
    db: Database, tenants: TenantPair, document: UUID, admin: asyncpg.Connection
) -> None:
    """Without the right to insert, that is what the error says; the next load finds it back."""
    await admin.execute("REVOKE INSERT ON knowledge_chunks FROM tenantry_app")
    with pytest.raises(PrivilegeError, match="knowledge_chunks"):
        await load(db, tenants, ["x"], document_id=document)
    await admin.execute("GRANT INSERT ON knowledge_chunks TO tenantry_app")
    assert await load(db, tenants, ["x"], document_id=document) == 1


async def test_only_a_writing_tenants_session_loads(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """The operator's session has no tenant to load for, and a read-only one does not write."""
    async with db.operator(reason="test") as tx:
        with pytest.raises(SessionUseError, match="found a OperatorSession"):
            await load_chunks(tx, ["x"], document_id=document)  # type: ignore[arg-type]
    with pytest.raises(ReadOnlyError):
        async with db.tenant(tenants.a.id, read_only=True) as own:
            await load_chunks(own, ["x"], document_id=document)


async def test_two_loads_into_one_document_take_turns(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """The second waits for the first to end, and goes on where that one did."""
    has_begun = asyncio.Event()

    async def first() -> None:
        async with db.tenant(tenants.a.id) as tx:
            await load_chunks(tx, ["a"] * 20, document_id=document, batch_size=3)
            has_begun.set()
            await asyncio.sleep(0.1)
            await load_chunks(tx, ["b"], document_id=document)

    async def second() -> None:
        await has_begun.wait()
        await load(db, tenants, ["c"] * 20, document_id=document, batch_size=3)

    await asyncio.wait_for(asyncio.gather(first(), second()), 30)
    found = await rows(db, tenants)
    assert [each.position for each in found] == list(range(41))
    assert "".join(each.content for each in found) == "a" * 20 + "b" + "c" * 20


async def test_event_loop_has_its_turns(db: Database, tenants: TenantPair, document: UUID) -> None:
    """While rows that are at hand are loaded, others are served: after a few rows, each time."""
    read, most, ended = 0, 0, False

    def chunks() -> Iterator[Chunk]:
        nonlocal read
        for number in range(300):
            read += 1
            yield Chunk("x", vector(number))

    async def other() -> None:
        nonlocal most
        while not ended:
            before = read
            await asyncio.sleep(0)
            most = max(most, read - before)

    async with db.tenant(tenants.a.id) as tx:
        await tx.execute(text("SELECT 1"))
        task = asyncio.create_task(other())
        await load_chunks(tx, chunks(), document_id=document)
        ended = True
        await task
    assert 0 < most <= 10


async def test_loads_behind_a_pooler(
    server: Server, urls: Urls, db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Where each transaction may get another connection, nothing that was prepared is missed."""
    async with pgbouncer(server.url, connections=2) as url:
        pooled = url.set(username=urls.app.username, database=urls.app.database)
        settings = Settings(database_url=pooled, pool_size=4)
        async with Database.connect(settings=settings) as behind:
            assert behind.settings.pooler

            async def some(number: int) -> None:
                async with behind.tenant(tenants.a.id) as tx:
                    own = await add_document(tx, title=f"{number}", content="c")
                    chunks = (Chunk(f"{n}", UNIT) for n in range(150))
                    assert await load_chunks(tx, chunks, document_id=own) == 150
                    if number % 3 == 0:
                        with pytest.raises(ConflictError):
                            taken = [Chunk("x", position=0)]
                            await load_chunks(tx, taken, document_id=own)

            await asyncio.gather(*map(some, range(6)))
            async with behind.tenant(tenants.a.id) as tx:
                left = text("SELECT count(*) FROM pg_prepared_statements WHERE name ~ '^tenantry_'")
                assert await tx.scalar(left) == 0
    assert await count(db) == 6 * 150
