"""Clients that go away in the middle: no fault of the application, and nothing is kept for them."""

# No `from __future__ import annotations`: FastAPI could not resolve what is local.
import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.websockets import WebSocket

from tenantry.asgi import Door, DoorSettings, Exchanges
from tenantry.auth.profiles import TESTING
from tenantry.fastapi import CurrentDoor, CurrentPrincipal, TenantTx
from tenantry.schema import Widget
from tests.conftest import TenantPair, Urls
from tests.fastapi.conftest import Site, eventually, make_app
from tests.serving import serving


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def recorded(caplog: pytest.LogCaptureFixture, route: str) -> list[Any]:
    """The statuses in the log of the requests of a route."""
    of_requests = [vars(each) for each in caplog.records if hasattr(each, "duration_ms")]
    return [each["status"] for each in of_requests if each["route"] == route]


async def connections_used(app: FastAPI) -> int:
    readings = app.state.tenantry.db.readings()
    return sum(each.value for each in readings if each.quantity == "connections_used")


def add_endpoints(app: FastAPI, begun: Callable[[], None]) -> None:
    @app.post("/streamed")
    async def streamed(request: Request, tx: TenantTx) -> None:
        await tx.scalar(select(func.count(Widget.id)))
        begun()
        async for _ in request.stream():
            pass

    @app.post("/whole")
    async def whole(request: Request, tx: TenantTx) -> None:
        await tx.scalar(select(func.count(Widget.id)))
        begun()
        await request.body()

    @app.get("/endless")
    async def endless(principal: CurrentPrincipal, door: CurrentDoor) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async with door.db.tenant(principal.tenant_id) as tx:
                await tx.scalar(select(func.count(Widget.id)))
                begun()
                while True:
                    yield "line\n" * 1_000
                    await asyncio.sleep(0.001)

        return StreamingResponse(lines())


async def test_who_leaves_a_server_leaves_nothing_behind(
    urls: Urls, tenants: TenantPair, caplog: pytest.LogCaptureFixture
) -> None:
    """With half a body sent, or half an answer read: no error in a log, no connection in use."""
    begun = asyncio.Event()
    database = replace(urls.settings, admin_url=None)
    app = make_app(DoorSettings(database=database, profile=TESTING))
    add_endpoints(app, begun.set)
    caplog.set_level(logging.INFO, "tenantry.asgi")
    async with serving(app, log_level="warning") as port, asyncio.timeout(20):
        key = (await app.state.tenantry.auth.issue_api_key(tenants.a.id)).key
        for method, path, rest in (
            ("POST", "/streamed", "Content-Length: 1000\r\n\r\nhalf a body"),
            ("POST", "/streamed", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf"),
            ("POST", "/whole", "Content-Length: 1000\r\n\r\n"),
            ("GET", "/endless", "\r\n"),
        ):
            begun.clear()
            caplog.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n{rest}".encode()
            )
            await begun.wait()
            if method == "GET":
                assert b"200" in await reader.readline()
            assert await connections_used(app) == 1
            writer.close()

            async def is_over() -> bool:
                return bool(recorded(caplog, path)) and await connections_used(app) == 0  # noqa: B023

            await eventually(is_over)
            assert recorded(caplog, path) == [200 if method == "GET" else None]
            assert faults(caplog) == []


async def test_a_socket_that_closes_is_no_fault(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the endpoint does not catch it; and nothing more is said in it."""
    closed: list[int] = []

    @site.app.websocket("/chat")
    async def chat(websocket: WebSocket, principal: CurrentPrincipal, door: CurrentDoor) -> None:
        await websocket.accept()
        async with door.db.tenant(principal.tenant_id) as tx:
            await tx.scalar(select(func.count(Widget.id)))
            closed.append(await connections_used(site.app))
            await websocket.receive_text()

    client = await site.signed_in()
    cookie = f"__Host-session={client.cookies['__Host-session']}"
    headers = {"host": "app.example.com", "origin": "https://app.example.com", "cookie": cookie}
    scope = {
        "type": "websocket", "path": "/chat", "query_string": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "scheme": "wss", "subprotocols": [],
    }  # fmt: skip
    heard = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}])
    said: list[str] = []

    async def receive() -> Any:
        return next(heard)

    async def send(message: Any) -> None:
        said.append(message["type"])

    await site.app(scope, receive, send)
    assert (said, closed) == (["websocket.accept"], [1])
    assert await connections_used(site.app) == 0
    assert faults(caplog) == []


@pytest.mark.parametrize("is_started", [True, False])
async def test_a_server_that_cannot_send_is_left_alone(
    is_started: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI 2.4 has servers raise an OSError; one of the application's own stays a fault."""
    said: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        said.append(message["type"])
        if len(said) > is_started:
            raise BrokenPipeError

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await Exchanges(app, Door(DoorSettings()))(scope, receive, send)
    assert said == ["http.response.start", "http.response.body"][: 1 + is_started]
    assert faults(caplog) == []

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError("of another connection")

    with pytest.raises(ConnectionResetError):
        await Exchanges(failing, Door(DoorSettings()))(scope, receive, send)
    assert len(faults(caplog)) == 1
