"""The ORM's ways to read and write, tried as A on what is B's.

The operator tries the same each time. Its session is not bound, so for it the attempt succeeds:
that is how a test here knows that there was something to keep apart.
"""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, exists, func, insert, literal_column, select, text, union_all, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    Session,
    aliased,
    attributes,
    contains_eager,
    defer,
    immediateload,
    joinedload,
    selectinload,
    subqueryload,
    undefer,
    with_parent,
)

from tenantry import Database, Settings
from tenantry.errors import CrossTenantError, TenantryError
from tenantry.schema import ConversationSession, KnowledgeDocument, Message, Tenant, Widget
from tenantry.schema.row_security import APP_ROLE
from tests.conftest import Server

Read = Callable[[AsyncSession], Awaitable[object]]
Write = Callable[[AsyncSession, "Estate"], Awaitable[object]]
A, B = (UUID(int=0x0A), UUID(int=0x0B))


@dataclass(frozen=True)
class Estate:
    """Two tenants with a widget and a conversation each; what is B's says so."""

    db: Database
    rows: dict[UUID, dict[type, UUID]]

    async def of(self, tenant: UUID, model: type[Any]) -> Any:
        """A tenant's object, loaded in a session of its own and detached from it."""
        async with self.db.tenant(tenant) as tx:
            options = [selectinload(ConversationSession.messages)]
            given = options if model is ConversationSession else []
            return await tx.get_one(model, self.rows[tenant][model], options=given)

    async def kept(self) -> list[Any]:
        """All that is B's, as another session of the operator's sees it."""
        async with self.db.operator(reason="test") as tx:
            return await self.theirs(tx)

    async def theirs(self, tx: AsyncSession) -> list[Any]:
        """All that is B's, as the operator sees it."""
        query = (
            "SELECT 'w', id::text, name FROM widgets WHERE tenant_id = :b UNION ALL"
            " SELECT 'm', id::text, content FROM messages WHERE tenant_id = :b UNION ALL"
            " SELECT 'c', id::text, started_at::text FROM conversation_sessions"
            " WHERE tenant_id = :b ORDER BY 1, 2"
        )
        return [tuple(row) for row in await tx.execute(text(query), {"b": B})]


@pytest.fixture(scope="module")
async def estate(server: Server, template: str) -> AsyncIterator[Estate]:
    name = await server.create_database(template=template)
    settings = Settings(
        database_url=server.at(name, user=APP_ROLE), admin_url=server.at(name), pool_size=3
    )
    async with Database.connect(settings=settings) as db:
        async with db.operator(reason="test") as tx:
            tx.add_all([Tenant(id=A, name="A", slug="a"), Tenant(id=B, name="B", slug="b")])
        rows: dict[UUID, dict[type, UUID]] = {}
        for tenant, word in ((A, "ours"), (B, "theirs")):
            async with db.tenant(tenant) as tx:
                widget, conversation = Widget(name=word), ConversationSession()
                tx.add_all([widget, conversation])
                await tx.flush()
                message = Message(session_id=conversation.id, role="user", content=word)
                document = KnowledgeDocument(title=word, content=word)
                tx.add_all([message, document])
            made = (widget, conversation, message, document)
            rows[tenant] = {type(each): each.id for each in made}
        yield Estate(db, rows)
    await server.drop_database(name)


# Reading

other = aliased(Widget)


async def every(tx: AsyncSession, statement: Any, **options: Any) -> list[str]:
    """Everything that a statement finds, attributes of loaded objects included."""
    result = await tx.execute(statement, **options)
    return [str([said(each) for each in row]) for row in result.unique().all()]


def said(value: Any) -> object:
    if isinstance(value, ConversationSession):
        return [message.content for message in value.messages]
    if isinstance(value, Message):
        return value.content
    return value.name if isinstance(value, Widget) else value


def conversations(option: Any) -> Read:
    return lambda tx: every(tx, select(ConversationSession).options(option))


async def streamed(tx: AsyncSession) -> list[str]:
    return [
        w.name async for w in await tx.stream_scalars(select(Widget).execution_options(yield_per=1))
    ]


async def partitioned(tx: AsyncSession) -> list[str]:
    result = await tx.stream(select(Widget.name))
    return [row.name async for part in result.partitions(1) for row in part]


async def queried(tx: AsyncSession) -> list[str]:
    def query(session: Session) -> list[str]:
        return [w.name for w in session.query(Widget).order_by(Widget.name).all()]

    return await tx.run_sync(query)


async def by_connection(tx: AsyncSession) -> list[Any]:
    connection = await tx.connection()
    return [tuple(row) for row in await connection.execute(select(Widget.__table__))]


async def populated_again(tx: AsyncSession) -> list[str]:
    await tx.execute(select(Widget))
    return await every(tx, select(Widget).execution_options(populate_existing=True))


def name_of(session: Session, widget: Widget) -> str:
    return widget.name


async def expired(tx: AsyncSession) -> list[str]:
    widgets = (await tx.scalars(select(Widget))).all()
    tx.expire_all()
    return [await tx.run_sync(name_of, each) for each in widgets]


async def deferred(tx: AsyncSession) -> list[str]:
    widgets = (await tx.scalars(select(Widget).options(defer(Widget.name)))).all()
    return [await tx.run_sync(name_of, each) for each in widgets]


async def of_parents(tx: AsyncSession) -> list[str]:
    found: list[str] = []
    for parent in (await tx.scalars(select(ConversationSession))).all():
        children = select(Message).where(with_parent(parent, ConversationSession.messages))
        found += await every(tx, children)
    return found


READS: dict[str, Read] = {
    "entities": lambda tx: every(tx, select(Widget)),
    "columns": lambda tx: every(tx, select(Widget.name)),
    "table": lambda tx: every(tx, select(Widget.__table__)),
    "alias": lambda tx: every(tx, select(other)),
    "self join": lambda tx: every(tx, select(other.name).join(Widget, Widget.id != uuid4())),
    "subquery": lambda tx: every(tx, select(aliased(Widget, select(Widget).subquery()))),
    "scalar subquery": lambda tx: every(
        tx, select(select(func.max(Widget.name)).scalar_subquery())
    ),
    "cte": lambda tx: every(tx, select(select(Widget).cte().c.name)),
    "union": lambda tx: every(tx, union_all(select(Widget.name), select(Message.content))),
    "aggregate": lambda tx: every(tx, select(func.string_agg(Widget.name, ","))),
    "window": lambda tx: every(tx, select(func.max(Widget.name).over())),
    "from a statement": lambda tx: every(
        tx, select(Widget).from_statement(text("SELECT * FROM widgets"))
    ),
    "text in a select": lambda tx: every(
        tx, select(literal_column("name")).select_from(text("widgets"))
    ),
    "with a table by text": lambda tx: every(
        tx, select(text("w.name")).select_from(text("widgets w"))
    ),
    "returning of an update": lambda tx: every(
        tx, update(Widget).values(name=Widget.name).returning(Widget.name)
    ),
    "returning of a delete": lambda tx: every(tx, delete(Message).returning(Message.content)),
    "selectinload": conversations(selectinload(ConversationSession.messages)),
    "joinedload": conversations(joinedload(ConversationSession.messages)),
    "subqueryload": conversations(subqueryload(ConversationSession.messages)),
    "immediateload": conversations(immediateload(ConversationSession.messages)),
    "contains_eager": lambda tx: every(
        tx,
        select(ConversationSession)
        .join(Message, literal_column("true"))
        .options(contains_eager(ConversationSession.messages)),
    ),
    "undefer": lambda tx: every(tx, select(Widget).options(undefer("*"))),
    "stream": streamed,
    "partitions": partitioned,
    "query": queried,
    "connection": by_connection,
    "populate_existing": populated_again,
    "expired": expired,
    "deferred": deferred,
    "with_parent": of_parents,
}


class _BackError(Exception):
    pass


@pytest.mark.parametrize("way", READS)
async def test_reading_finds_nothing_of_others(estate: Estate, way: str) -> None:
    """However the ORM is asked, A gets its own and nothing of B's; the operator gets both."""
    with pytest.raises(_BackError):
        async with estate.db.tenant(A) as tx:
            found = str(await READS[way](tx))
            assert "ours" in found
            assert "theirs" not in found
            raise _BackError
    with pytest.raises(_BackError):
        async with estate.db.operator(reason="test") as tx:
            assert "theirs" in str(await READS[way](tx))
            raise _BackError


async def test_counts_and_existence_do_not_tell_of_others(estate: Estate) -> None:
    """COUNT and EXISTS see own rows only."""
    theirs = exists().where(Widget.name == "theirs")
    for opened, count in ((estate.db.tenant(A), 1), (estate.db.operator(reason="test"), 2)):
        async with opened as tx:
            assert await tx.scalar(select(func.count()).select_from(Widget)) == count
            assert await tx.scalar(select(func.count(Widget.id))) == count
            assert await tx.scalar(select(theirs)) is (count == 2)


# Writing


def mapping(estate: Estate, name: str = "stolen") -> dict[str, Any]:
    return {"tenant_id": B, "id": estate.rows[B][Widget], "name": name}


def new(name: str = "planted") -> dict[str, Any]:
    return {"tenant_id": B, "id": uuid4(), "name": name}


async def merged(tx: AsyncSession, estate: Estate) -> None:
    widget = await estate.of(B, Widget)
    widget.name = "stolen"
    await tx.merge(widget)


async def merged_without_loading(tx: AsyncSession, estate: Estate) -> None:
    widget = await tx.merge(await estate.of(B, Widget), load=False)
    widget.name = "stolen"


async def attached(tx: AsyncSession, estate: Estate) -> None:
    widget = await estate.of(B, Widget)
    tx.add(widget)
    widget.name = "stolen"


async def disguised(tx: AsyncSession, estate: Estate) -> None:
    widget = await estate.of(B, Widget)
    attributes.set_committed_value(widget, "tenant_id", A)
    tx.add(widget)
    widget.name = "stolen"


async def unpickled(tx: AsyncSession, estate: Estate) -> None:
    widget = pickle.loads(pickle.dumps(await estate.of(B, Widget)))
    tx.add(widget)
    widget.name = "stolen"


async def deleted(tx: AsyncSession, estate: Estate) -> None:
    await tx.delete(await estate.of(B, Widget))


async def appended(tx: AsyncSession, estate: Estate) -> None:
    conversation = await estate.of(A, ConversationSession)
    tx.add(conversation)
    conversation.messages.append(await estate.of(B, Message))
    conversation.messages[-1].content = "stolen"


async def appended_to_theirs(tx: AsyncSession, estate: Estate) -> None:
    conversation = await estate.of(B, ConversationSession)
    conversation.messages.append(Message(role="user", content="planted"))
    tx.add(conversation.messages[-1])


async def merged_by_cascade(tx: AsyncSession, estate: Estate) -> None:
    conversation = await estate.of(A, ConversationSession)
    message = await estate.of(B, Message)
    message.content = "stolen"
    conversation.messages.append(message)
    await tx.merge(conversation)


async def in_bulk(tx: AsyncSession, call: Callable[[Session], object]) -> None:
    await tx.run_sync(call)


async def reassigned(tx: AsyncSession, estate: Estate) -> None:
    widget = await estate.of(A, Widget)
    tx.add(widget)
    widget.tenant_id = B


WRITES: dict[str, Write] = {
    "add": lambda tx, e: in_bulk(tx, lambda s: s.add(Widget(**new()))),
    "insert": lambda tx, e: tx.execute(insert(Widget).values(**new())),
    "insert many": lambda tx, e: tx.execute(insert(Widget), [new(), new()]),
    "insert returning": lambda tx, e: tx.scalars(insert(Widget).returning(Widget), [new()]),
    "insert from select": lambda tx, e: tx.execute(
        insert(Widget).from_select(
            ["tenant_id", "id", "name"],
            select(literal_column(f"'{B}'::uuid"), func.gen_random_uuid(), Widget.name).limit(1),
        )
    ),
    "insert into the table": lambda tx, e: tx.execute(
        Widget.__table__.insert(),  # type: ignore[attr-defined]
        [{**new(), "config": {}}],
    ),
    "bulk_save_objects": lambda tx, e: in_bulk(
        tx, lambda s: s.bulk_save_objects([Widget(**new())])
    ),
    "bulk_insert_mappings": lambda tx, e: in_bulk(
        tx,
        lambda s: s.bulk_insert_mappings(Widget, [new()]),
    ),
    "bulk_update_mappings": lambda tx, e: in_bulk(
        tx,
        lambda s: s.bulk_update_mappings(Widget, [mapping(e)]),
    ),
    "update many by key": lambda tx, e: tx.execute(update(Widget), [mapping(e)]),
    "update": lambda tx, e: tx.execute(
        update(Widget).where(Widget.id == e.rows[B][Widget]).values(name="stolen")
    ),
    "update all, fetched": lambda tx, e: tx.execute(
        update(Widget).values(name="stolen"), execution_options={"synchronize_session": "fetch"}
    ),
    "update of the table": lambda tx, e: tx.execute(
        Widget.__table__.update().values(name="stolen")  # type: ignore[attr-defined]
    ),
    "delete all": lambda tx, e: tx.execute(delete(Message)),
    "delete of the table": lambda tx, e: tx.execute(
        Message.__table__.delete()  # type: ignore[attr-defined]
    ),
    "upsert": lambda tx, e: tx.execute(
        postgresql.insert(Widget)
        .values(**mapping(e))
        .on_conflict_do_update(index_elements=["tenant_id", "id"], set_={"name": "stolen"})
    ),
    "upsert that moves": lambda tx, e: tx.execute(
        postgresql.insert(Widget)
        .values(tenant_id=A, id=e.rows[A][Widget], name="x")
        .on_conflict_do_update(index_elements=["tenant_id", "id"], set_={"tenant_id": B})
    ),
    "update that moves": lambda tx, e: tx.execute(
        update(Widget).where(Widget.tenant_id == A).values(tenant_id=B)
    ),
    "assigned tenant": reassigned,
    "merge": merged,
    "merge without loading": merged_without_loading,
    "merge by cascade": merged_by_cascade,
    "add of a detached object": attached,
    "add of a disguised object": disguised,
    "add of an unpickled object": unpickled,
    "delete of a detached object": deleted,
    "append to a relationship": appended,
    "append to theirs": appended_to_theirs,
}
# The unit of work itself refuses these, or finds no row: the operator cannot do them either, and
# that A could not is shown by what B still has.
FOR_NOBODY = {
    "add of a disguised object",
    "merge by cascade",
    "append to a relationship",
    "append to theirs",
}


@pytest.mark.parametrize("way", WRITES)
async def test_writing_changes_nothing_of_others(estate: Estate, way: str) -> None:
    """However the ORM is told to write, B's rows stay as they are; the operator's would change."""
    before = await estate.kept()
    try:
        async with estate.db.tenant(A) as tx:
            await WRITES[way](tx, estate)
            await tx.flush()
            assert await estate.kept() == before
            await tx.rollback()
    except (TenantryError, SQLAlchemyError):
        pass
    assert await estate.kept() == before
    if way not in FOR_NOBODY:
        with pytest.raises(_BackError):
            async with estate.db.operator(reason="test") as tx:
                await WRITES[way](tx, estate)
                await tx.flush()
                assert await estate.theirs(tx) != before
                raise _BackError


@pytest.mark.parametrize(
    "way",
    ["add", "merge", "add of a detached object", "add of an unpickled object", "assigned tenant"],
)
async def test_objects_of_others_are_refused_by_name(estate: Estate, way: str) -> None:
    """What can be seen in Python is refused in Python, as `CrossTenantError`."""
    with pytest.raises(CrossTenantError, match=str(B)):
        async with estate.db.tenant(A) as tx:
            await WRITES[way](tx, estate)


async def test_identity_maps_are_not_shared(estate: Estate) -> None:
    """The same id in two tenants is two objects; a session never hands out another's."""
    shared = uuid4()
    async with estate.db.operator(reason="test") as tx:
        tx.add_all([Widget(tenant_id=t, id=shared, name=t.hex) for t in (A, B)])
    try:
        async with estate.db.tenant(A) as ours, estate.db.tenant(B) as theirs:
            mine, yours = await ours.get_one(Widget, shared), await theirs.get_one(Widget, shared)
            assert (mine.name, yours.name) == (A.hex, B.hex)
            assert await ours.get(Widget, (B, shared)) is None
            with pytest.raises(SQLAlchemyError):
                await ours.refresh(yours)
            assert yours not in ours
    finally:
        async with estate.db.operator(reason="test") as tx:
            await tx.execute(delete(Widget).where(Widget.id == shared))


async def test_an_expired_object_of_others_is_not_filled(estate: Estate) -> None:
    """An object of B's whose attributes are expired does not get them back through A's session."""
    async with estate.db.tenant(B) as tx:
        widget = await tx.get_one(Widget, estate.rows[B][Widget])
        tx.expire(widget)
    with pytest.raises((TenantryError, SQLAlchemyError)):
        async with estate.db.tenant(A) as tx:
            tx.add(widget)
            await tx.refresh(widget)
    assert "name" not in widget.__dict__
