"""Bulk loading as the operator, under row security."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import Table, func, select
from sqlalchemy.exc import IntegrityError

from tenantry import Database
from tenantry.errors import (
    DatabaseUnavailableError,
    InvalidValueError,
    PrivilegeError,
    TenantUnknownError,
)
from tenantry.schema import (
    EMBEDDING_DIMENSIONS,
    ConversationSession,
    CostEvent,
    KnowledgeChunk,
    KnowledgeDocument,
    Message,
    Tenant,
    Widget,
)
from tenantry.tenancy.copying import copy_rows
from tests.conftest import TenantPair

WIDGETS = cast("Table", Widget.__table__)
DOCUMENTS = cast("Table", KnowledgeDocument.__table__)
CHUNKS = cast("Table", KnowledgeChunk.__table__)
MESSAGES = cast("Table", Message.__table__)
COSTS = cast("Table", CostEvent.__table__)
UNIT = [1.0] + [0.0] * (EMBEDDING_DIMENSIONS - 1)


def documents(tenant: Tenant, *vectors: Any) -> list[tuple[Any, ...]]:
    return [(tenant.id, uuid4(), f"t{n}", "content", each) for n, each in enumerate(vectors)]


DOCUMENT_COLUMNS = ["tenant_id", "id", "title", "content", "embedding"]


COST_COLUMNS = ["tenant_id", "provider", "model", "tokens", "cost"]


async def load(
    db: Database, table: Table, rows: Any, columns: Sequence[str], *, batch_size: int = 2000
) -> int:
    """Load rows in a transaction of their own."""
    async with db.operator(reason="test") as tx:
        return await copy_rows(tx, table, rows, columns=columns, batch_size=batch_size)


async def count(db: Database, table: Table) -> int | None:
    async with db.operator(reason="test") as tx:
        return await tx.scalar(select(func.count()).select_from(table))


async def test_rows_arrive_as_the_orm_would_have_sent_them(
    db: Database, tenants: TenantPair
) -> None:
    """Vectors, JSON, money and times come out as they went in; defaults fill the rest."""
    at = datetime(2025, 1, 1, 12, tzinfo=UTC)
    vector = [float(n) / 7 for n in range(1, EMBEDDING_DIMENSIONS + 1)]
    as_float32 = array("f", vector)
    rows = documents(tenants.a, vector, as_float32, tuple(vector), None)
    async with db.operator(reason="test") as tx:
        assert await copy_rows(tx, DOCUMENTS, rows, columns=DOCUMENT_COLUMNS, batch_size=2) == 4
        columns = ["tenant_id", "name", "config", "created_at"]
        config = {"theme": "dark", "own": {"é": [1, None]}}
        await copy_rows(tx, WIDGETS, [(tenants.a.id, "W", config, at)], columns=columns)
        money = Decimal("0.0000012345")
        cost = (tenants.b.id, "openai", "m", 2**40, money)
        names = ["tenant_id", "provider", "model", "tokens", "cost"]
        await copy_rows(tx, COSTS, [cost], columns=names)
    async with db.tenant(tenants.a.id) as own:
        stored = (
            await own.scalars(select(KnowledgeDocument).order_by(KnowledgeDocument.title))
        ).all()
        widget = (await own.scalars(select(Widget))).one()
    assert [array("f", each.embedding or []) for each in stored] == [as_float32] * 3 + [array("f")]
    assert stored[0].document_metadata == {}
    assert (widget.config.theme, widget.config.model_extra) == ("dark", {"own": {"é": [1, None]}})
    assert widget.created_at == at
    async with db.tenant(tenants.b.id) as own:
        assert (await own.scalars(select(CostEvent.cost))).one() == money


async def test_orm_can_send_vectors_before_and_after(db: Database, tenants: TenantPair) -> None:
    """The connection's own way of sending vectors is back when rows were copied."""

    def by_orm() -> KnowledgeDocument:
        return KnowledgeDocument(tenant_id=tenants.a.id, title="o", content="o", embedding=UNIT)

    for _ in range(2):
        async with db.operator(reason="test") as tx:
            tx.add(
                KnowledgeDocument(tenant_id=tenants.a.id, title="o", content="o", embedding=UNIT)
            )
            await tx.flush()
            await copy_rows(tx, DOCUMENTS, documents(tenants.a, UNIT), columns=DOCUMENT_COLUMNS)
            tx.add(
                KnowledgeDocument(tenant_id=tenants.a.id, title="o", content="o", embedding=UNIT)
            )
            await tx.flush()
            assert await tx.scalar(select(KnowledgeDocument.embedding).limit(1)) == UNIT


async def test_rows_are_taken_batch_by_batch(db: Database, tenants: TenantPair) -> None:
    """No more rows are taken than a batch holds, and each batch is reported once it is in."""
    taken = 0
    seen: list[tuple[int, int]] = []

    async def rows() -> AsyncIterator[tuple[Any, ...]]:
        nonlocal taken
        for number in range(25):
            taken += 1
            yield (tenants.a.id, f"W{number}")

    async with db.operator(reason="test") as tx:
        loaded = await copy_rows(
            tx,
            WIDGETS,
            rows(),
            columns=["tenant_id", "name"],
            batch_size=10,
            on_batch=lambda size: seen.append((size, taken)),
        )
    assert loaded == 25
    assert seen == [(10, 10), (10, 20), (5, 25)]


async def test_no_rows_are_no_error(db: Database) -> None:
    """Nothing to load loads nothing."""
    async with db.operator(reason="test") as tx:
        assert await copy_rows(tx, WIDGETS, [], columns=["tenant_id", "name"]) == 0


VECTORS: list[tuple[Any, str]] = [
    ([1.0] * 3, "has 3 dimensions"),
    ([], "has 0 dimensions"),
    ([math.nan, *UNIT[1:]], r"\[0\] is nan"),
    ([*UNIT[:-1], math.inf], r"\[1023\] is inf"),
    ([1e300, *UNIT[1:]], r"\[0\] is 1e\+300"),
    ([math.inf, -math.inf, *UNIT[2:]], r"\[0\] is inf"),
    ([0.0] * EMBEDDING_DIMENSIONS, "length zero"),
    ([1e-60] * EMBEDDING_DIMENSIONS, "length zero"),
    ([-0.0] * EMBEDDING_DIMENSIONS, "length zero"),
    ([1e-13] * EMBEDDING_DIMENSIONS, "largest component is 1e-13"),
    ([3e38, *UNIT[1:-1], -math.nan], r"\[1023\] is nan"),
    ("x" * EMBEDDING_DIMENSIONS, "is a str"),
    (["x"] * EMBEDDING_DIMENSIONS, "float32 numbers only"),
    (3, "is a int"),
]


@pytest.mark.parametrize(("vector", "message"), VECTORS)
async def test_bad_vector_is_refused_by_row(
    db: Database, tenants: TenantPair, vector: object, message: str
) -> None:
    """A vector without a cosine distance ends the load, names its row, and nothing stays."""
    rows = documents(tenants.a, UNIT, UNIT, vector, UNIT)
    with pytest.raises(InvalidValueError, match=f"documents, row 2: embedding.*{message}"):
        await load(db, DOCUMENTS, rows, DOCUMENT_COLUMNS, batch_size=1)
    assert await count(db, DOCUMENTS) == 0


async def test_extreme_numbers_are_kept(db: Database, tenants: TenantPair) -> None:
    """The largest that can be compared, and the smallest float32, are numbers like others."""
    extreme = [1e12, -1e12, 1e-45, -0.0, *UNIT[4:]]
    smallest = [1e-12, 1e-30, *UNIT[2:]]
    await load(db, DOCUMENTS, documents(tenants.a, extreme, smallest), DOCUMENT_COLUMNS)
    async with db.operator(reason="test") as tx:
        stored = await tx.scalars(select(KnowledgeDocument).order_by(KnowledgeDocument.title))
        found = [array("f", each.embedding or []) for each in stored]
    assert found == [array("f", extreme), array("f", smallest)]


BAD_MESSAGES: list[tuple[Callable[[], object], str]] = [
    (lambda: "a\0b", "contains NUL"),
    (lambda: "a\ud800", "lone surrogate"),
    (lambda: "x" * 100_000_000, "100,000,000 bytes"),
    (lambda: None, "content is None"),
    (lambda: b"bytes", "is a bytes"),
]


@pytest.mark.parametrize(("content", "message"), BAD_MESSAGES)
async def test_bad_text_is_refused_by_row(
    db: Database, tenants: TenantPair, content: Callable[[], object], message: str
) -> None:
    """Text that PostgreSQL would refuse, or a message of 100 MB, is refused with its row."""
    async with db.operator(reason="test") as tx:
        session = ConversationSession(tenant_id=tenants.a.id)
        tx.add(session)
    row = (tenants.a.id, session.id, "user", content())
    columns = ["tenant_id", "session_id", "role", "content"]
    with pytest.raises(InvalidValueError, match=f"messages, row 0: .*{message}"):
        await load(db, MESSAGES, [row], columns)


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        (["tenant_id", "nmae"], (uuid4(), "x")),
        (["tenant_id", 'name" ; DROP TABLE widgets; --'], (uuid4(), "x")),
        (["tenant_id", "tenant_id"], (uuid4(), uuid4())),
        ([], ()),
        (["tenant_id", "name"], (uuid4(),)),
        (["tenant_id", "name", "created_at"], (uuid4(), "x", datetime(2025, 1, 1))),  # noqa: DTZ001
        (["tenant_id", "name", "created_at"], (uuid4(), "x", "yesterday")),
        (["tenant_id", "name", "config"], (uuid4(), "x", {"theme": "purple"})),
        (["tenant_id", "name"], ("no uuid", "x")),
        (["tenant_id", "name"], (7, "x")),
    ],
)
async def test_rows_that_do_not_fit_are_refused(
    db: Database, columns: list[str], row: tuple[object, ...]
) -> None:
    """Unknown columns, short rows and values of other types are one clear error."""
    with pytest.raises(InvalidValueError, match="widgets"):
        await load(db, WIDGETS, [row], columns)


async def test_number_with_a_fraction_is_not_cut(db: Database, tenants: TenantPair) -> None:
    """1.5 tokens are refused; the driver alone would store 1."""
    row = (tenants.a.id, "p", "m", 1.5, Decimal(1))
    with pytest.raises(InvalidValueError, match="tokens is a float"):
        await load(db, COSTS, [row], COST_COLUMNS)


async def test_constraints_hold(db: Database, tenants: TenantPair) -> None:
    """COPY goes past no check, no foreign key and no tenant that does not exist."""
    row = (tenants.a.id, "p", "m", -1, Decimal(1))
    with pytest.raises(IntegrityError, match="cost_events_tokens_check"):
        await load(db, COSTS, [row], COST_COLUMNS)
    with pytest.raises(TenantUnknownError):
        await load(db, WIDGETS, [(uuid4(), "x")], ["tenant_id", "name"])
    document = documents(tenants.a, UNIT)
    await load(db, DOCUMENTS, document, DOCUMENT_COLUMNS)
    chunk = (tenants.b.id, document[0][1], "of another tenant", 0)
    with pytest.raises(IntegrityError):
        await load(db, CHUNKS, [chunk], ["tenant_id", "document_id", "content", "position"])


async def test_application_may_not_copy(db: Database, tenants: TenantPair) -> None:
    """The application's role cannot make the staging table, so it cannot load in bulk."""

    async def as_application() -> None:
        async with db.tenant(tenants.a.id) as own:
            rows = [(tenants.a.id, "x")]
            await copy_rows(own, WIDGETS, rows, columns=["tenant_id", "name"])

    with pytest.raises(PrivilegeError):
        await as_application()


async def test_error_in_the_rows_rolls_everything_back(db: Database, tenants: TenantPair) -> None:
    """An error of the caller's own arrives as it is, and no earlier batch stays."""

    def rows() -> Iterator[tuple[UUID, str]]:
        for number in range(5):
            yield (tenants.a.id, f"W{number}")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        await load(db, WIDGETS, rows(), ["tenant_id", "name"], batch_size=2)
    assert await count(db, WIDGETS) == 0


async def test_cancelled_load_leaves_nothing(db: Database, tenants: TenantPair) -> None:
    """A load cancelled in the middle of a batch leaves nothing, and the pool goes on working."""
    started = asyncio.Event()

    async def slow_load() -> None:
        async with db.operator(reason="test") as tx:
            await copy_rows(
                tx,
                DOCUMENTS,
                documents(tenants.a, *[UNIT] * 3000),
                columns=DOCUMENT_COLUMNS,
                batch_size=300,
                on_batch=lambda _: started.set(),
            )

    task = asyncio.create_task(slow_load())
    await started.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(db, DOCUMENTS) == 0
    assert await load(db, DOCUMENTS, documents(tenants.a, UNIT), DOCUMENT_COLUMNS) == 1


async def test_lost_connection_is_named(
    db: Database, tenants: TenantPair, admin: asyncpg.Connection[Any]
) -> None:
    """A server that goes away in the middle is one of our errors, and nothing stays."""

    async def rows() -> AsyncIterator[tuple[Any, ...]]:
        yield (tenants.a.id, "before")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        yield (tenants.a.id, "after")

    with pytest.raises(DatabaseUnavailableError):
        await load(db, WIDGETS, rows(), ["tenant_id", "name"], batch_size=1)
    assert await count(db, WIDGETS) == 0


async def test_several_loads_share_a_transaction(db: Database, tenants: TenantPair) -> None:
    """Tables can be loaded one after the other, and the same one twice, in one transaction."""
    async with db.operator(reason="test") as tx:
        for name in ("a", "b"):
            await copy_rows(tx, WIDGETS, [(tenants.a.id, name)], columns=["tenant_id", "name"])
    assert await count(db, WIDGETS) == 2
