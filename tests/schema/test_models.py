from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import (
    CheckConstraint,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    delete,
    func,
    select,
)
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm import configure_mappers, selectinload
from sqlalchemy.schema import ColumnCollectionConstraint

from tenantry import Database, schema
from tenantry.schema import (
    Base,
    ConversationSession,
    CostEvent,
    Meeting,
    Message,
    Tenant,
    User,
    Widget,
)
from tenantry.schema.row_security import AUTH_ROLE, row_security_of
from tests.conftest import TenantPair

TABLES = Base.metadata.sorted_tables
TENANT_TABLES = [table for table in TABLES if table.name != "tenants"]
REQUIRED_INDEXES = {
    "knowledge_documents_embedding_idx": "hnsw (embedding vector_cosine_ops)",
    "knowledge_chunks_embedding_idx": "hnsw (embedding vector_cosine_ops)",
    "knowledge_documents_content_trgm_idx": "gin (content gin_trgm_ops)",
    "users_tenant_id_idx": "btree (tenant_id)",
    "widgets_tenant_id_idx": "btree (tenant_id)",
    "meetings_tenant_id_idx": "btree (tenant_id)",
}
# What the contract asks for, though it does not lead with the tenant.
WITHOUT_TENANT = {name for name, form in REQUIRED_INDEXES.items() if "btree" not in form}


def test_the_package_exports_what_the_design_names() -> None:
    """Every public name is there, and the list is sorted."""
    configure_mappers()
    assert all(hasattr(schema, name) for name in schema.__all__)
    assert len(TABLES) == 14


@pytest.mark.parametrize("table", TENANT_TABLES, ids=lambda table: table.name)
def test_keys_constraints_and_indexes_lead_with_the_tenant(table: Table) -> None:
    """Single-column keys would let a tenant test the existence of another's rows."""
    assert [column.name for column in table.primary_key] == ["tenant_id", "id"]
    for constraint in table.constraints:
        if isinstance(constraint, ColumnCollectionConstraint):
            columns = [column.name for column in constraint.columns]
            if not isinstance(constraint, CheckConstraint):
                assert columns[0] == "tenant_id", constraint.name
    for index in table.indexes:
        if index.name not in WITHOUT_TENANT:
            assert next(iter(index.columns)).name == "tenant_id", index.name


@pytest.mark.parametrize("table", TENANT_TABLES, ids=lambda table: table.name)
def test_every_foreign_key_has_an_index(table: Table) -> None:
    """Deleting a parent must not scan its children."""
    unique = [
        each
        for each in table.constraints
        if isinstance(each, PrimaryKeyConstraint | UniqueConstraint)
    ]
    leading = [
        {column.name for column in list(each.columns)[:2]} for each in (*unique, *table.indexes)
    ]
    for constraint in table.foreign_key_constraints:
        wanted = {column.name for column in constraint.columns}
        assert any(wanted <= columns for columns in leading), constraint.name


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_declares_row_security_and_says_what_it_is(table: Table) -> None:
    """Row security is enabled and forced, and the table has a comment."""
    declared = row_security_of(table)
    assert declared is not None
    assert declared.enabled
    assert declared.forced
    look_ups = {
        "tenants": ["look_up"],
        "users": ["look_up"],
        "sessions": ["look_up", "renewal"],
        "knowledge_documents": ["look_up"],
        "knowledge_chunks": ["look_up"],
    }
    assert [policy.name for policy in declared.policies] == [
        "tenant_isolation",
        "operator_access",
        *(f"auth_{each}" for each in look_ups.get(table.name, ())),
    ]
    assert all(policy.using for policy in declared.policies)
    assert all(policy.check for policy in declared.policies if policy.command != "SELECT")
    assert table.comment


def test_before_the_tenant_is_known_only_named_columns_are_read() -> None:
    """The look-ups hold rights on columns alone, never a password, name, email or setting.

    Neither do the search functions, and beside what is searched they read no table.
    """
    held = {
        (table.name, privilege, column)
        for table in TABLES
        if (declared := row_security_of(table))
        for grant in declared.grants
        if grant.role == AUTH_ROLE
        for privilege in grant.privileges
        for column in grant.columns or ["the whole table"]
    }
    assert {(table, column) for table, privilege, column in held if privilege != "SELECT"} == {
        ("sessions", "expires_at"),
        ("sessions", "last_seen_at"),
    }
    searched = {"knowledge_chunks", "knowledge_documents"}
    assert {table for table, _, _ in held} == {"sessions", "tenants", "users", *searched}
    assert not {"source", "source_digest"} & {column for _, _, column in held}
    secret = {"the whole table", "hashed_password", "email", "name", "settings", "user_agent"}
    assert not secret & {column for _, _, column in held}


async def test_the_required_indexes_are_there(db: Database) -> None:
    """By name and form, as other code relies on them."""
    from sqlalchemy import text

    async with db.operator() as tx:
        rows = await tx.execute(text("SELECT indexname, indexdef FROM pg_indexes"))
        found = {row.indexname: row.indexdef.partition(" USING ")[2] for row in rows}
    assert {name: found.get(name) for name in REQUIRED_INDEXES} == REQUIRED_INDEXES


async def test_emails_are_unique_within_a_tenant_only(db: Database, tenants: TenantPair) -> None:
    """The same person may belong to two tenants, and not twice to one."""
    for tenant in tenants:
        async with db.tenant(tenant.id) as tx:
            tx.add(User(email="ada@acme.example", name="Ada"))
    with pytest.raises(IntegrityError, match="users_tenant_id_email_key"):
        async with db.tenant(tenants.a.id) as tx:
            tx.add(User(email="ada@acme.example", name="Ada"))


async def test_ids_are_ordered(db: Database, tenants: TenantPair) -> None:
    """Ids made one after the other sort so: inserts go to the end of the index."""
    async with db.tenant(tenants.a.id) as tx:
        widgets = [Widget(name=str(number)) for number in range(50)]
        for widget in widgets:
            tx.add(widget)
            await tx.flush()
    ids: list[UUID] = [widget.id for widget in widgets]
    assert ids == sorted(ids)
    assert {each.version for each in ids} == {7}


async def test_conversations_outlive_what_they_began_in(db: Database, tenants: TenantPair) -> None:
    """Deleting a meeting or widget empties that reference alone; messages go with the rest."""
    async with db.tenant(tenants.a.id) as tx:
        conversation = ConversationSession(
            meeting=Meeting(room_name="m"),
            widget=Widget(name="w"),
            messages=[Message(role="user", content="hello")],
        )
        tx.add(conversation)
        await tx.flush()
        assert conversation.messages[0].tenant_id == tenants.a.id
        tx.add(
            CostEvent(session_id=conversation.id, provider="p", model="m", tokens=1, cost="0.01")
        )
    async with db.tenant(tenants.a.id) as tx:
        await tx.execute(delete(Meeting))
        await tx.execute(delete(Widget))
    async with db.tenant(tenants.a.id) as tx:
        left = (
            await tx.scalars(
                select(ConversationSession).options(selectinload(ConversationSession.messages))
            )
        ).one()
        assert (left.meeting_id, left.widget_id, left.tenant_id) == (None, None, tenants.a.id)
        assert [message.content for message in left.messages] == ["hello"]
        await tx.delete(left)
    async with db.tenant(tenants.a.id) as tx:
        assert await tx.scalar(select(func.count()).select_from(Message)) == 0
        assert (await tx.scalars(select(CostEvent.session_id))).all() == [None]


async def test_taking_a_reference_away_keeps_the_tenant(db: Database, tenants: TenantPair) -> None:
    """`conversation.widget = None` empties widget_id, and not the tenant of the key."""
    async with db.tenant(tenants.a.id) as tx:
        conversation = ConversationSession(widget=Widget(name="w"))
        tx.add(conversation)
        await tx.flush()
        conversation.widget = None
        await tx.flush()
        assert (conversation.widget_id, conversation.tenant_id) == (None, tenants.a.id)


async def test_relations_are_not_loaded_by_accident(db: Database, tenants: TenantPair) -> None:
    """A relation that was not asked for raises, instead of querying behind an await."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(ConversationSession())
    async with db.tenant(tenants.a.id) as tx:
        conversation = (await tx.scalars(select(ConversationSession))).one()
        with pytest.raises(InvalidRequestError, match="raise"):
            _ = conversation.messages


async def test_a_tenants_deletion_removes_all_that_is_its(db: Database) -> None:
    """No table keeps a row of a deleted tenant, and the other tenant's stay."""
    from tenantry.ops.seed import SeedPlan, seed

    report = await seed(db, SeedPlan(users=6, chunks=12))
    gone = report.tenants[0].id
    async with db.operator() as tx:
        await tx.delete(await tx.get_one(Tenant, gone))
    async with db.operator() as tx:
        for table in TENANT_TABLES:
            of_gone = select(func.count()).select_from(table).where(table.c.tenant_id == gone)
            assert await tx.scalar(of_gone) == 0, table.name
        assert await tx.scalar(select(User.id).limit(1)) is not None


async def test_times_default_to_now(db: Database, tenants: TenantPair) -> None:
    """Rows that do not say when they were made were made now."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(Widget(name="w"))
    async with db.tenant(tenants.a.id) as tx:
        created = await tx.scalar(select(Widget.created_at))
    assert created is not None
    assert abs((datetime.now(UTC) - created).total_seconds()) < 60
