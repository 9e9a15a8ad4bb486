"""The public API as a type checker sees it: mypy reads these functions, and nobody runs them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, assert_type
from uuid import UUID

from sqlalchemy import select

from tenantry import Database, Settings, TenantSession
from tenantry.schema import Widget, WidgetConfig
from tenantry.tenancy.sessions import OperatorSession


async def sessions(db: Database, tenant_id: UUID) -> None:
    async with Database.connect() as opened:
        assert_type(opened, Database)
    async with Database.connect("postgresql://h/d", settings=Settings()) as opened:
        assert_type(opened, Database)
    async with db.tenant(tenant_id) as tx:
        assert_type(tx, TenantSession)
    async with db.tenant(str(tenant_id)) as tx:
        assert_type(tx, TenantSession)
    async with db.operator(reason="x") as operator:
        assert_type(operator, OperatorSession)
    context: AbstractAsyncContextManager[TenantSession, Any] = db.tenant(tenant_id)
    del context


async def rows(tx: TenantSession, widget_id: UUID) -> None:
    assert_type(await tx.get(Widget, widget_id), Widget | None)
    assert_type(await tx.get_one(Widget, widget_id), Widget)
    widget = (await tx.scalars(select(Widget))).one()
    assert_type(widget, Widget)
    assert_type(widget.config, WidgetConfig)
    assert_type(widget.tenant_id, UUID)
