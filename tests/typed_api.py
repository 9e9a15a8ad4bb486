"""The public API as a type checker sees it: mypy reads these functions, and nobody runs them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, assert_type
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from tenantry import Database, Settings, TenantSession
from tenantry.auth import (
    Auth,
    IssuedApiKey,
    Mail,
    Principal,
    SessionInfo,
    SignedIn,
    UserInfo,
)
from tenantry.fastapi import (
    ApiKeyPrincipal,
    CurrentDoor,
    CurrentPrincipal,
    OptionalPrincipal,
    SessionPrincipal,
    TenantTx,
    require_role,
)
from tenantry.knowledge import Chunk
from tenantry.schema import Widget, WidgetConfig
from tenantry.search import Hit, hybrid_search, vector_search
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


async def signing_in(db: Database, tenant_id: UUID) -> None:
    async def send(mail: Mail) -> None:
        assert_type(mail.token, str)

    auth = Auth(db, send=send)
    user = await auth.register(tenant_id, "ada@acme.example", "p", role="owner")
    assert_type(user, UserInfo)
    signed_in = await auth.sign_in(str(tenant_id), "ada@acme.example", "p", address="192.0.2.1")
    assert_type(signed_in, SignedIn)
    assert_type(signed_in.token, str)
    assert_type(signed_in.session, SessionInfo)
    assert_type(signed_in.user, UserInfo)
    principal = await auth.validate(signed_in.token)
    assert_type(principal, Principal)
    assert_type(principal.tenant_id, UUID)
    assert_type(principal.user_id, UUID | None)
    assert_type(await auth.sessions(tenant_id, user.id), list[SessionInfo])
    assert_type(await auth.revoke(tenant_id, user.id, signed_in.session.id), bool)
    assert_type(await auth.revoke_all(tenant_id, user.id, except_session=None), int)
    assert_type(await auth.issue_api_key(tenant_id), IssuedApiKey)
    assert_type(await auth.authenticate_api_key("tnt_"), Principal)


async def searching(tx: TenantSession, array: NDArray[np.float32], numbers: list[float]) -> None:
    for embedding in (array, numbers, tuple(numbers)):
        assert_type(await vector_search(tx, embedding), list[Hit])
        assert_type(await hybrid_search(tx, text="a word", embedding=embedding), list[Hit])
        Chunk("a text", embedding=embedding)
    await vector_search(tx, "1, 2, 3")  # type: ignore[arg-type]


async def endpoint(
    caller: CurrentPrincipal,
    optional: OptionalPrincipal,
    user: SessionPrincipal,
    program: ApiKeyPrincipal,
    admin: Annotated[Principal, require_role("admin")],
    tx: TenantTx,
    door: CurrentDoor,
) -> None:
    for principal in (caller, user, program, admin):
        assert_type(principal, Principal)
    assert_type(optional, Principal | None)
    assert_type(tx, TenantSession)
    assert_type(door.db, Database)
    assert_type(door.auth, Auth)
    require_role("boss")  # type: ignore[arg-type]
