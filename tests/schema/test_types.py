from __future__ import annotations

import math
from array import array
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select

from tenantry import Database
from tenantry.errors import InvalidValueError
from tenantry.schema import (
    CostEvent,
    KnowledgeChunk,
    KnowledgeDocument,
    Meeting,
    Message,
    Tenant,
    User,
    Widget,
    WidgetConfig,
)
from tenantry.schema.types import CONTENT_MAX_BYTES, check_embedding
from tests.conftest import TenantPair

UNIT = [1.0] + [0.0] * 1023


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\0b", "NUL at character 1"),
        ("ab\ud800", r"lone surrogate \(U\+D800\) at character 2"),
        ("x" * 201, "201 bytes of UTF-8; at most 200"),
        ("é" * 101, "202 bytes"),
        (7, "is a int; a str is required"),
        (None, "is None; a value is required"),
    ],
)
def test_text_that_cannot_be_stored_is_refused_where_it_is_assigned(
    value: Any, message: str
) -> None:
    """The error comes from the line that assigns it, and names the column."""
    with pytest.raises(InvalidValueError, match=f"Widget.name.*{message}"):
        Widget(name=value)


def test_a_message_of_100_mb_is_refused_before_it_is_sent() -> None:
    """The limit and the size are named, and the text is not repeated."""
    with pytest.raises(InvalidValueError, match="100,000,000 bytes.*16,777,216 fit") as caught:
        Message(role="user", content="x" * 100_000_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (UNIT[:-1], "has 1023 dimensions; 1024 are required"),
        ([0.0] * 1024, "length zero"),
        ([1e-60] * 1024, "length zero"),
        ([math.nan, *UNIT[1:]], r"\[0\] is nan"),
        ([*UNIT[:-1], math.inf], r"\[1023\] is inf"),
        ([1e39, *UNIT[1:]], "float32|inf"),
        ([1e-13] * 1024, "largest component is 1e-13; 1e-12 to 1e12 is required"),
        ([-2e12, *UNIT[1:]], r"largest component is 2e\+12"),
        (["a", *UNIT[1:]], "float32 numbers only"),
        ("x" * 1024, "is a str"),
        (7, "is a int"),
    ],
)
def test_vectors_without_a_cosine_distance_are_refused(value: Any, message: str) -> None:
    """Wrong length, NaN, infinity, zero and what is no vector, each by name."""
    with pytest.raises(InvalidValueError, match=f"KnowledgeChunk.embedding.*({message})"):
        KnowledgeChunk(content="x", position=0, embedding=value)


def test_vectors_may_be_any_sequence() -> None:
    """Lists, tuples and arrays of numbers are all vectors."""
    for value in (UNIT, tuple(UNIT), array("f", UNIT)):
        assert check_embedding(value) == UNIT


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"theme": "pink"}, "config.theme: Input should be"),
        ({"allowed_origins": "x"}, "config.allowed_origins"),
        ({"x": math.nan}, "config is not JSON"),
        ({"x": "a\0b"}, "contains NUL"),
        ({"x": "\ud800"}, "lone surrogate|surrogates"),
        ([], "valid dictionary"),
        ({"x": object()}, "not JSON|serialize"),
    ],
)
def test_json_that_does_not_fit_is_refused_with_the_fields_name(value: Any, message: str) -> None:
    """A bad field is called by its path; nothing else of the value is shown."""
    with pytest.raises(InvalidValueError, match=f"Widget.*({message})"):
        Widget(name="x", config=value)


@pytest.mark.parametrize("value", [datetime(2026, 1, 1), "2026-01-01"])  # noqa: DTZ001
def test_times_without_a_zone_are_refused(value: Any) -> None:
    """A naive datetime would be taken for somebody's local time."""
    with pytest.raises(InvalidValueError, match="Meeting.started_at.*time zone"):
        Meeting(room_name="x", started_at=value)


async def test_values_come_back_as_what_they_are(db: Database, tenants: TenantPair) -> None:
    """JSON comes back as its model with unknown keys kept, times in UTC, vectors as lists."""
    cet = timezone(timedelta(hours=1))
    async with db.tenant(tenants.a.id) as tx:
        tx.add(Widget(name="w", config={"theme": "dark", "mine": [1, r"\u0000"]}))
        tx.add(Meeting(room_name="m", started_at=datetime(2026, 1, 1, 12, tzinfo=cet)))
        tx.add(KnowledgeDocument(title="t", content="c", embedding=UNIT))
    async with db.tenant(tenants.a.id) as tx:
        widget = (await tx.scalars(select(Widget))).one()
        meeting = (await tx.scalars(select(Meeting))).one()
        document = (await tx.scalars(select(KnowledgeDocument))).one()
        near = KnowledgeDocument.embedding.cosine_distance(UNIT)
        assert await tx.scalar(select(near)) == 0
    assert widget.config == WidgetConfig.model_validate({"theme": "dark", "mine": [1, r"\u0000"]})
    assert meeting.started_at == datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert document.embedding == UNIT
    assert document.document_metadata == {}


async def test_bulk_statements_are_checked_too(db: Database, tenants: TenantPair) -> None:
    """What passes by assignment is checked when it is bound, and arrives as our error."""
    rows: list[dict[str, Any]] = [{"name": "a\0"}]
    for model, values in (
        (Widget, rows),
        (Widget, [{"name": "x", "config": {"theme": "pink"}}]),
        (KnowledgeDocument, [{"title": "t", "content": "c", "embedding": [0.0] * 1024}]),
        (Meeting, [{"room_name": "m", "started_at": datetime(2026, 1, 1)}]),  # noqa: DTZ001
        (KnowledgeDocument, [{"title": "t", "content": "c", "document_metadata": [1]}]),
    ):
        with pytest.raises(InvalidValueError):
            async with db.tenant(tenants.a.id) as tx:
                await tx.execute(insert(model), values)


async def test_an_expression_may_be_assigned(db: Database, tenants: TenantPair) -> None:
    """SQL expressions pass the check; the database computes them."""
    async with db.tenant(tenants.a.id) as tx:
        widget = Widget(name="quiet")
        tx.add(widget)
        await tx.flush()
        widget.name = func.upper(Widget.name)
        await tx.flush()
        await tx.refresh(widget)
        assert widget.name == "QUIET"


async def test_updated_at_follows_changes(db: Database, tenants: TenantPair) -> None:
    """The ORM sets it, as there are no triggers."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(Widget(name="x"))
    async with db.tenant(tenants.a.id) as tx:
        widget = (await tx.scalars(select(Widget))).one()
        before = widget.updated_at
        widget.name = "y"
        await tx.flush()
        await tx.refresh(widget)
        assert widget.updated_at > before


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Tenant(name="x", slug="No Slug"),
        lambda: Tenant(name="", slug="x"),
        lambda: Tenant(name="x", slug="x", api_key=b"short"),
        lambda: User(email="Upper@x", name="x"),
        lambda: User(email="no-at", name="x"),
        lambda: User(email="a@b", name="x", role="root"),
        lambda: Meeting(room_name="x", status="over"),
        lambda: Meeting(
            room_name="x",
            started_at=datetime(2026, 1, 2, tzinfo=UTC),
            ended_at=datetime(2026, 1, 1, tzinfo=UTC),
        ),
        lambda: CostEvent(provider="x", model="x", tokens=-1, cost=0),
        lambda: CostEvent(provider="x", model="x", tokens=1, cost=-1),
        lambda: KnowledgeChunk(document_id=uuid4(), content="x", position=-1),
    ],
)
async def test_check_constraints_hold(db: Database, tenants: TenantPair, bad: Any) -> None:
    """What the models promise, the database enforces."""
    row = bad()
    if not isinstance(row, Tenant):
        row.tenant_id = tenants.a.id
    with pytest.raises(Exception, match="_check"):
        async with db.operator() as tx:
            tx.add(row)


async def test_the_database_refuses_zero_vectors_and_long_texts(
    db: Database, tenants: TenantPair
) -> None:
    """Raw SQL meets the same limits as the models."""
    from sqlalchemy import text

    for statement in (
        "INSERT INTO knowledge_documents (title, content, embedding)"
        " VALUES ('t', 'c', array_fill(0, ARRAY[1024])::vector)",
        "INSERT INTO knowledge_documents (title, content)"
        f" VALUES ('t', repeat('x', {CONTENT_MAX_BYTES + 1}))",
    ):
        with pytest.raises(Exception, match="_check"):
            async with db.tenant(tenants.a.id) as tx:
                await tx.execute(text(statement))
