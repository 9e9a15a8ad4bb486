"""The tenant's condition is visible in every ORM statement, for each table in it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
import sqlalchemy
from sqlalchemy import (
    Executable,
    bindparam,
    delete,
    event,
    exists,
    func,
    insert,
    lambda_stmt,
    literal,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.orm import Session, aliased, joinedload, lazyload, selectinload, subqueryload

from tenantry import Database, TenantSession
from tenantry.schema import (
    Base,
    ConversationSession,
    Message,
    Tenant,
    Widget,
)
from tenantry.schema import KnowledgeChunk as Chunk
from tenantry.schema import KnowledgeDocument as Doc
from tests.conftest import TenantPair

Statements = list[str]


@pytest.fixture
async def sent(db: Database) -> AsyncIterator[Statements]:
    """The statements that the application sends."""
    statements: Statements = []

    def note(_1: Any, _2: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(db._app.sync_engine, "before_cursor_execute", note)
    yield statements
    event.remove(db._app.sync_engine, "before_cursor_execute", note)


@pytest.fixture
async def document(db: Database, tenants: TenantPair) -> Doc:
    """A document with two chunks and a conversation with a message, for each tenant; A's."""
    made = {}
    for tenant in tenants:
        async with db.tenant(tenant.id) as tx:
            document = Doc(title="t", content="c")
            conversation = ConversationSession()
            tx.add_all([document, conversation])
            await tx.flush()
            tx.add_all(Chunk(document_id=document.id, content=f"{i}", position=i) for i in range(2))
            tx.add(Message(session_id=conversation.id, role="user", content="hello"))
        made[tenant.id] = document
    return made[tenants.a.id]


# Every table of ours in FROM, JOIN, UPDATE or DELETE, and the name it goes by there.
TABLE: Final = re.compile(
    r"(?:FROM|JOIN|UPDATE|USING|,)\s+(widgets|messages|tenants|conversation_sessions"
    r"|knowledge_documents|knowledge_chunks)\b(?:\s+AS\s+(\w+))?"
)


def without_condition(statement: str) -> list[str]:
    """The names of tables in `statement` that are not compared with a parameter."""
    names = [alias or table for table, alias in TABLE.findall(statement)]
    assert names, statement
    return [
        name
        for name in names
        if not re.search(
            rf"\b{name}\.{'id' if name == 'tenants' else 'tenant_id'} = \$\d", statement
        )
    ]


Other = aliased(Chunk)
numbered = select(Chunk.id, Chunk.position).subquery()
chosen = select(Doc.id).where(Doc.title == "t").cte()

SELECTS: Final[dict[str, Executable]] = {
    "entity": select(Chunk),
    "columns": select(Chunk.id, Chunk.content),
    "count": select(func.count()).select_from(Chunk),
    "alias": select(Other),
    "self join": select(Chunk.id).join(Other, Other.document_id == Chunk.document_id),
    "join": select(Doc).join(Doc.chunks),
    "outer join": select(Doc.id, Chunk.id).outerjoin(Doc.chunks),
    "comma join": select(Doc.id, Chunk.id).where(Doc.id == Chunk.document_id),
    "subquery": select(numbered),
    "join of a subquery": select(Doc.id).join(numbered, literal(value=True)),
    "cte": select(Chunk.id).join(chosen, chosen.c.id == Chunk.document_id),
    "exists": select(Doc.id).where(exists().where(Chunk.document_id == Doc.id)),
    "any": select(Doc.id).where(Doc.chunks.any(Chunk.position == 1)),
    "scalar subquery": select(
        Doc.id,
        select(func.count(Chunk.id))
        .where(Chunk.document_id == Doc.id)
        .correlate(Doc)
        .scalar_subquery(),
    ),
    "in subquery": select(Doc.id).where(Doc.id.in_(select(Chunk.document_id))),
    "union": union_all(select(Doc.id), select(Chunk.id)),
    "select from union": select(union_all(select(Doc.id), select(Chunk.id)).subquery()),
    "lateral": select(Doc.id, select(Chunk.id).where(Chunk.document_id == Doc.id).lateral()),
    "for update": select(Chunk).with_for_update(),
    "tenant": select(Tenant.slug),
    "lambda": lambda_stmt(lambda: select(Chunk)),
}


# SQLAlchemy before 2.1 gives no criteria to EXISTS. Row security holds there all the same.
LEFT_OUT: Final = {"exists", "any"} if sqlalchemy.__version__.startswith("2.0.") else set[str]()


@pytest.mark.parametrize("name", SELECTS)
async def test_a_select_carries_it(
    name: str, db: Database, document: Doc, sent: Statements
) -> None:
    """Whatever its shape, for every occurrence of a tenant table."""
    async with db.tenant(document.tenant_id) as tx:
        assert (await tx.execute(SELECTS[name])).unique().all()
    left_out = ["knowledge_chunks"] if name in LEFT_OUT else []
    assert [without_condition(each) for each in sent] == [left_out]


async def test_a_joined_load_compares_with_its_parents_tenant(
    db: Database, document: Doc, sent: Statements
) -> None:
    """There it is in ON, which a planner and a distributed PostgreSQL follow to the parameter."""
    async with db.tenant(document.tenant_id) as tx:
        await tx.scalars(select(Doc).options(joinedload(Doc.chunks)))
    assert "knowledge_chunks_1.tenant_id = knowledge_documents.tenant_id" in sent[0]
    assert "knowledge_documents.tenant_id = $1" in sent[0]


def read_expired(session: Session, document: Doc) -> str:
    found = session.get_one(Doc, document.id)
    session.expire(found)
    return found.title


LOADS: Final[dict[str, Callable[[TenantSession, Doc], Awaitable[Any]]]] = {
    "get": lambda tx, document: tx.get_one(Doc, document.id),
    "select in": lambda tx, _: tx.scalars(select(Doc).options(selectinload(Doc.chunks))),
    "subquery": lambda tx, _: tx.scalars(select(Doc).options(subqueryload(Doc.chunks))),
    "lazy": lambda tx, document: tx.run_sync(
        lambda s: s.get_one(Doc, document.id, options=[lazyload(Doc.chunks)]).chunks
    ),
    "refresh": lambda tx, document: tx.run_sync(
        lambda s: s.refresh(s.get_one(Doc, document.id), ["chunks", "title"])
    ),
    "expired": lambda tx, document: tx.run_sync(read_expired, document),
    "legacy query": lambda tx, _: tx.run_sync(lambda s: s.query(Doc).filter_by(title="t").all()),
    "stream": lambda tx, _: tx.stream(select(Doc)),
    "scalar": lambda tx, _: tx.scalar(select(Doc.id)),
}


@pytest.mark.parametrize("name", LOADS)
async def test_a_load_carries_it(name: str, db: Database, document: Doc, sent: Statements) -> None:
    """Loads of relationships, of one row by its id, and of expired attributes."""
    async with db.tenant(document.tenant_id) as tx:
        await LOADS[name](tx, document)
    assert sent
    assert [without_condition(each) for each in sent] == [[]] * len(sent)


CHANGES: Final = {
    "update": update(Widget).values(name="renamed"),
    "update with a subquery": update(Doc)
    .where(Doc.id.in_(select(Chunk.document_id)))
    .values(title="x"),
    "update from": update(Chunk).where(Chunk.document_id == Doc.id).values(content="x"),
    "update fetch": update(Chunk)
    .values(content="x")
    .execution_options(synchronize_session="fetch"),
    "update returning": update(Chunk).values(content="x").returning(Chunk.id),
    "delete": delete(Message),
    "delete evaluate": delete(Message).execution_options(synchronize_session="evaluate"),
    "delete using": delete(Message).where(Message.session_id == ConversationSession.id),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_carries_it(
    name: str, db: Database, document: Doc, sent: Statements
) -> None:
    """Bulk UPDATE and DELETE, for every tenant in turn: no value is kept from the last."""
    for _ in range(2):
        async with db.tenant(document.tenant_id) as tx:
            await tx.execute(CHANGES[name])
    assert [without_condition(each) for each in sent] == [[]] * len(sent)


async def test_each_session_has_its_own_value(db: Database, tenants: TenantPair) -> None:
    """The same statement, compiled once, compares with the tenant of the session it runs in."""
    for tenant in tenants:
        async with db.tenant(tenant.id) as tx:
            tx.add(Widget(name="old"))
    for _ in range(2):
        for tenant in tenants:
            async with db.tenant(tenant.id) as tx:
                changed = await tx.execute(
                    update(Widget).values(name=tenant.slug).returning(Widget.tenant_id)
                )
                assert changed.scalars().all() == [tenant.id]
                assert (await tx.scalars(select(Widget.name))).all() == [tenant.slug]
                assert await tx.scalar(select(Tenant.id)) == tenant.id


async def test_statements_without_a_model_pass(db: Database, tenants: TenantPair) -> None:
    """Core's own statements have no model to put a condition on; row security is enough."""
    table = Base.metadata.tables["widgets"]
    async with db.tenant(tenants.a.id) as tx:
        await tx.execute(insert(table), [{"name": "one"}, {"name": "two"}])
        assert await tx.scalar(select(func.count()).select_from(table)) == 2
        assert await tx.scalar(select(literal(7))) == 7
        copied = insert(table).from_select(
            ["name"], select(Widget.name + "!"), include_defaults=False
        )
        assert (await tx.scalars(copied.returning(table.c.name))).all() == ["one!", "two!"]
        query = select(table.c.name).where(table.c.name == bindparam("wanted"))
        assert (await tx.scalars(query, {"wanted": "two"})).all() == ["two"]
        raw = select(Widget).from_statement(text("SELECT * FROM widgets WHERE name = :wanted"))
        assert (await tx.scalars(raw, {"wanted": "two"})).one().name == "two"
    async with db.tenant(tenants.b.id) as other:
        assert await other.scalar(select(func.count()).select_from(table)) == 0


async def test_parameters_of_the_statement_are_kept(db: Database, tenants: TenantPair) -> None:
    """What the caller passes by name is passed on beside the tenant."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add_all([Widget(name="one"), Widget(name="two")])
        query = select(Widget.name).where(Widget.name == bindparam("wanted"))
        assert (await tx.scalars(query, {"wanted": "two"})).all() == ["two"]
        change = update(Widget).where(Widget.name == bindparam("old")).values(name=bindparam("new"))
        changed = await tx.scalars(change.returning(Widget.name), {"old": "one", "new": "three"})
        assert changed.all() == ["three"]
