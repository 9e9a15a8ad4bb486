from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import NoResultFound

from tenantry import Database
from tenantry.errors import CrossTenantError, TenantRequiredError, TenantUnknownError
from tenantry.schema import Tenant, Widget
from tests.conftest import TenantPair


async def test_a_tenant_sees_its_own_rows_only(db: Database, tenants: TenantPair) -> None:
    """What one tenant writes, the other does not see, through the ORM and in raw SQL."""
    for tenant in tenants:
        async with db.tenant(tenant.id) as tx:
            tx.add(Widget(name=f"of {tenant.slug}"))
    for tenant in tenants:
        async with db.tenant(str(tenant.id)) as tx:
            names = (await tx.scalars(select(Widget.name))).all()
            raw = (await tx.scalars(text("SELECT name FROM widgets"))).all()
        assert names == raw == [f"of {tenant.slug}"]


async def test_new_objects_get_the_tenant(db: Database, tenants: TenantPair) -> None:
    """`tenant_id` is filled in when the object is added, before anything is sent."""
    async with db.tenant(tenants.a.id) as tx:
        widget = Widget(name="Support")
        tx.add(widget)
        assert widget.tenant_id == tenants.a.id
        await tx.flush()
        assert await tx.get(Widget, widget.id) is widget
        assert await tx.get_one(Widget, widget.id) is widget
        assert await tx.get(Widget, (tenants.a.id, widget.id)) is widget


async def test_get_takes_the_bare_id_and_finds_no_other_tenants_row(
    db: Database, tenants: TenantPair
) -> None:
    """`get` needs no tenant, and another tenant's id finds nothing."""
    async with db.tenant(tenants.a.id) as tx:
        widget = Widget(name="Support")
        tx.add(widget)
    async with db.tenant(tenants.b.id) as tx:
        assert await tx.get(Widget, widget.id) is None
        with pytest.raises(NoResultFound):
            await tx.get_one(Widget, widget.id)
        assert await tx.get(Tenant, tenants.a.id) is None
        assert (await tx.get_one(Tenant, tenants.b.id)).slug == "globex"


async def test_an_object_of_another_tenant_is_refused(db: Database, tenants: TenantPair) -> None:
    """Adding another tenant's object fails before any SQL, and names both tenants."""
    async with db.tenant(tenants.a.id) as tx:
        with pytest.raises(CrossTenantError, match=str(tenants.b.id)):
            tx.add(Widget(name="x", tenant_id=tenants.b.id))


async def test_raw_sql_cannot_write_another_tenants_row(db: Database, tenants: TenantPair) -> None:
    """The database refuses what the ORM does not see."""
    with pytest.raises(CrossTenantError):
        async with db.tenant(tenants.a.id) as tx:
            await tx.execute(
                text("INSERT INTO widgets (tenant_id, name) VALUES (:t, 'x')"),
                {"t": tenants.b.id},
            )


async def test_the_tenant_is_bound_again_after_commit_and_rollback(
    db: Database, tenants: TenantPair
) -> None:
    """Every transaction of a session has the tenant, not only the first."""
    from tenantry.tenancy.sessions import TenantSession

    async with TenantSession(db._app, tenant_id=tenants.a.id) as tx:
        for end in (tx.commit, tx.rollback):
            assert await tx.scalar(text("SELECT tenantry.current_tenant()")) == tenants.a.id
            async with tx.begin_nested():
                assert await tx.scalar(text("SELECT tenantry.current_tenant()")) == tenants.a.id
            await end()
        assert await tx.scalar(text("SELECT tenantry.current_tenant()")) == tenants.a.id


async def test_a_connection_goes_back_without_the_tenant(db: Database, tenants: TenantPair) -> None:
    """A pooled connection keeps nothing of the tenant that used it last."""
    async with db.tenant(tenants.a.id) as tx:
        await tx.execute(text("SELECT 1"))
    async with db._app.connect() as connection:
        assert await connection.scalar(text("SELECT tenantry.current_tenant()")) is None


async def test_bulk_updates_carry_the_condition(db: Database, tenants: TenantPair) -> None:
    """An ORM UPDATE names the tenant in its SQL, whatever row security would do."""
    seen: list[str] = []
    from sqlalchemy import event

    event.listen(
        db._app.sync_engine,
        "before_cursor_execute",
        lambda _c, _cu, statement, *_: seen.append(statement),
    )
    async with db.tenant(tenants.a.id) as tx:
        await tx.execute(update(Widget).values(name="renamed"))
        await tx.scalars(select(Widget))
    updates = [each for each in seen if each.startswith(("UPDATE", "SELECT"))]
    assert len(updates) == 2
    assert all("widgets.tenant_id = " in each.partition("WHERE")[2] for each in updates)


@pytest.mark.parametrize("value", [None, "", "acme", 7, "0" * 31, b"x"])
async def test_what_is_not_a_tenant_id_is_refused(db: Database, value: object) -> None:
    """A session without a tenant cannot be opened by accident."""
    with pytest.raises(TenantRequiredError, match="UUID"):
        async with db.tenant(value):  # type: ignore[arg-type]
            pass


async def test_an_unknown_tenant_reads_nothing_and_writes_nothing(db: Database) -> None:
    """A tenant that does not exist has no rows, and cannot be given one."""
    async with db.tenant(uuid4()) as tx:
        assert (await tx.scalars(select(Widget))).all() == []
    with pytest.raises(TenantUnknownError, match="no such tenant"):
        async with db.tenant(uuid4()) as tx:
            tx.add(Widget(name="x"))


async def test_a_deleted_tenant_reads_nothing_and_writes_nothing(
    db: Database, tenants: TenantPair
) -> None:
    """Also where the session was open before it was deleted: its rows went with it."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(Widget(name="x"))
        await tx.commit()
        async with db.operator(reason="test") as operator:
            await operator.delete(await operator.get_one(Tenant, tenants.a.id))
        assert (await tx.scalars(select(Widget))).all() == []
        tx.add(Widget(name="y"))
        with pytest.raises(TenantUnknownError):
            await tx.flush()
        await tx.rollback()
    async with db.tenant(tenants.b.id) as other:
        assert (await other.get_one(Tenant, tenants.b.id)).slug == "globex"


async def test_the_operator_sees_all_tenants(
    db: Database, tenants: TenantPair, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator's session is the way to see more than one tenant; the reason is logged."""
    with caplog.at_level("INFO", logger="tenantry"):
        async with db.operator(reason="export for ticket 4711") as tx:
            assert set(await tx.scalars(select(Tenant.slug))) == {"acme", "globex"}
    assert [each.getMessage() for each in caplog.records] == [
        "operator session: export for ticket 4711"
    ]


async def test_an_exception_rolls_back(db: Database, tenants: TenantPair) -> None:
    """A block that raises leaves nothing behind."""
    with pytest.raises(ZeroDivisionError):
        async with db.tenant(tenants.a.id) as tx:
            tx.add(Widget(name="x"))
            await tx.flush()
            raise ZeroDivisionError
    async with db.tenant(tenants.a.id) as tx:
        assert (await tx.scalars(select(Widget))).all() == []
