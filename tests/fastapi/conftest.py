"""A small application with the door in it, on a database of the test's own, and its clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import select
from starlette.requests import Request
from starlette.websockets import WebSocket

from tenantry.asgi import Door
from tenantry.auth import Auth, Mail, Principal
from tenantry.auth.profiles import TESTING
from tenantry.fastapi import (
    ApiKeyPrincipal,
    CurrentDoor,
    CurrentPrincipal,
    DoorSettings,
    OptionalPrincipal,
    TenantTx,
    install,
    lifespan,
    require_role,
)
from tenantry.schema import Widget
from tests.conftest import TenantPair, Urls

PASSWORD = "correct horse battery staple"
EMAIL = "ada@acme.example"
SITE = "https://app.example.com"

routes = APIRouter(prefix="/api")


class WidgetIn(BaseModel):
    """What the application is sent."""

    name: str


@routes.get("/widgets")
async def widgets(tx: TenantTx) -> list[str]:
    return list(await tx.scalars(select(Widget.name).order_by(Widget.name)))


@routes.post("/widgets", status_code=201)
async def add_widget(body: WidgetIn, principal: CurrentPrincipal, tx: TenantTx) -> str:
    tx.add(widget := Widget(name=body.name))
    await tx.flush()
    return str(widget.id)


@routes.get("/who")
async def who(principal: OptionalPrincipal) -> str | None:
    return None if principal is None else principal.kind


@routes.get("/program")
async def program(principal: ApiKeyPrincipal) -> str:
    return str(principal.tenant_id)


@routes.get("/program/widgets")
async def widgets_of_program(_: ApiKeyPrincipal, tx: TenantTx) -> list[str]:
    return list(await tx.scalars(select(Widget.name)))


@routes.get("/owners", dependencies=[require_role("owner")])
async def owners() -> str:
    return "in"


@routes.get("/admins", dependencies=[Depends(require_role("admin"))])
async def admins() -> str:
    return "in"


@routes.get("/members")
async def members(principal: Annotated[Principal, require_role("member")]) -> str:
    return str(principal.role)


GATES: dict[Door, asyncio.Event] = {}
"""Until when streams wait."""


@routes.get("/stream")
async def stream(tx: TenantTx, door: CurrentDoor) -> StreamingResponse:
    names = list(await tx.scalars(select(Widget.name)))
    gate = GATES[door]

    async def lines() -> AsyncIterator[str]:
        yield "first\n"
        await gate.wait()
        yield f"{names}\n"

    return StreamingResponse(lines())


@routes.post("/twice")
async def twice(tx: TenantTx) -> str:
    """Where names are unique by a deferred constraint, nothing fails before the commit."""
    tx.add_all([Widget(name="same"), Widget(name="same")])
    await tx.flush()
    return "kept"


@routes.websocket("/socket")
async def socket(websocket: WebSocket, principal: CurrentPrincipal) -> None:
    await websocket.accept()
    await websocket.close()


@routes.websocket("/long")
async def long(websocket: WebSocket, tx: TenantTx) -> None:
    await websocket.accept()


def fails(request: Request) -> None:
    raise request.app.state.error


@routes.get("/fails", dependencies=[Depends(fails)])
async def failing() -> None:
    """Raises what the test has said."""


@dataclass
class Site:
    """A running application, and what it has mailed."""

    app: FastAPI
    mails: list[Mail] = field(default_factory=list)
    raises: bool = True
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def auth(self) -> Auth:
        return self.app.state.tenantry.auth  # type: ignore[no-any-return]

    def client(self, *, base: str = SITE, **headers: str) -> httpx.AsyncClient:
        """A browser on the site itself, unless ``headers`` say otherwise."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=self.raises)
        given = headers or {"Sec-Fetch-Site": "same-origin", "Origin": base}
        client = httpx.AsyncClient(transport=transport, base_url=base, headers=given)
        self.clients.append(client)
        return client

    async def signed_in(self, email: str = EMAIL, *, tenant: str = "acme") -> httpx.AsyncClient:
        """A browser whose user has signed in."""
        client = self.client()
        response = await sign_in(client, email=email, tenant=tenant)
        assert response.status_code == 200, response.text
        return client


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once ``holds`` says so; for what only polling can tell."""
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def sign_in(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = {"email": EMAIL, "password": PASSWORD, "tenant": "acme", **fields}
    return await client.post("/auth/sign-in", json=body)


def make_app(settings: DoorSettings) -> FastAPI:
    """The application with the door in it."""
    app = FastAPI(lifespan=lifespan)
    install(app, settings)
    app.include_router(routes)
    return app


@asynccontextmanager
async def running(urls: Urls, **options: Any) -> AsyncIterator[Site]:
    """An application within its lifespan."""
    mails: list[Mail] = []

    async def send(mail: Mail) -> None:
        mails.append(mail)

    # As in production: nothing that serves requests needs the administrator's URL.
    database = replace(urls.settings, admin_url=None)
    given = {"database": database, "profile": TESTING, "send": send, "sign_up": True}
    app = make_app(DoorSettings(**{**given, **options}))
    site = Site(app, mails)
    async with app.router.lifespan_context(app):
        yield site
    for client in site.clients:
        await client.aclose()


@pytest.fixture
async def site(urls: Urls, tenants: TenantPair) -> AsyncIterator[Site]:
    """The application, with Ada, an owner of Acme, and Bob, a member of Globex."""
    async with running(urls) as site:
        await site.auth.register(tenants.a.id, EMAIL, PASSWORD, role="owner")
        await site.auth.register(tenants.b.id, "bob@globex.example", PASSWORD)
        yield site
