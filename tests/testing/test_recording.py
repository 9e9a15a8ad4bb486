"""What is sent to the database while a block runs."""

from __future__ import annotations

import io

import asyncpg
from sqlalchemy import select, text

from tenantry import Database
from tenantry.auth import Auth, SignedIn
from tenantry.schema import Widget
from tenantry.search import keyword_search
from tenantry.testing import recorded_sql
from tests.conftest import TenantPair


async def test_every_way_to_the_database_is_recorded(
    db: Database, auth: Auth, signed_in: SignedIn, tenants: TenantPair
) -> None:
    """The ORM, SQL by hand, search and validation: once each, in order, without their values."""
    with recorded_sql() as sent:
        await auth.validate(signed_in.token)
        async with db.tenant(tenants.a.id) as tx:
            await tx.scalars(select(Widget).where(Widget.name == "a secret"))
            await tx.execute(text("SELECT 42 AS answer"))
            await keyword_search(tx, "a secret")
    assert len(sent.matching("validate_session")) == 1
    assert len(sent.matching("FROM widgets")) == 1
    assert len(sent.matching("AS answer")) == 1
    assert len(sent.matching("keyword")) == 1
    order = ["validate_session", "FROM widgets", "AS answer", "keyword"]
    found = [next(i for i, sql in enumerate(sent) if each in sql) for each in order]
    assert found == sorted(found)
    assert "a secret" not in repr(sent)
    assert not any(each.startswith(("BEGIN", "COMMIT")) for each in sent)
    assert any(f"tenantry.tenant_id = '{tenants.a.id}'" in each.sql for each in sent.everything)


async def test_values_are_recorded_where_they_are_asked_for(
    db: Database, tenants: TenantPair
) -> None:
    """And nothing is recorded after the block."""
    async with db.tenant(tenants.a.id) as tx:
        with recorded_sql(values=True) as sent:
            await tx.scalars(select(Widget).where(Widget.name == "a name"))
        await tx.scalars(select(Widget))
    assert [each.values for each in sent.statements] == [("a name", tenants.a.id)] or [
        each.values for each in sent.statements
    ] == [(tenants.a.id, "a name")]


async def test_every_call_of_a_connection_of_ones_own_is_recorded(
    admin: asyncpg.Connection,
) -> None:
    """By whatever method, with its text by its place or by its name."""
    await admin.execute("CREATE TEMPORARY TABLE numbers (n integer)")
    with recorded_sql(values=True) as sent:
        await admin.execute(query="SELECT 1")
        await admin.executemany(command="INSERT INTO numbers VALUES ($1)", args=[(1,), (2,)])
        await admin.fetch("SELECT $1::int", 3)
        await admin.fetchrow(query="SELECT 4")
        await admin.fetchval("SELECT 5", column=0)
        async with admin.transaction():
            assert [row[0] async for row in admin.cursor("SELECT $1::int", 6)] == [6]
        prepared = await admin.prepare("SELECT $1::int + 7")
        await prepared.fetch(7)
        await admin.copy_records_to_table("numbers", records=[(8,)])
        await admin.copy_from_table("numbers", output=io.BytesIO())
        await admin.copy_from_query("SELECT n FROM numbers", output=io.BytesIO())
    assert [(each.sql, each.values) for each in sent.statements] == [
        ("SELECT 1", ()),
        ("INSERT INTO numbers VALUES ($1)", ([(1,), (2,)],)),
        ("SELECT $1::int", (3,)),
        ("SELECT 4", ()),
        ("SELECT 5", ()),
        ("SELECT $1::int", (6,)),
        ("SELECT $1::int + 7", (7,)),
        ("COPY numbers FROM STDIN", ()),
        ("COPY numbers TO STDOUT", ()),
        ("COPY (SELECT n FROM numbers) TO STDOUT", ()),
    ]
