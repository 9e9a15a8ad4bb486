"""`assert_isolated` finds ways that are no endpoint of JSON, and leaves alone those mended."""

# No `from __future__ import annotations`: FastAPI could not resolve what is local.
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from starlette.routing import Host

from tenantry import Database
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.testing import IsolationError, Workbench, assert_isolated
from tenantry.testing.surface import UNSEEN
from tests.testing.ways import COOKIE, HOST, WAYS, Ways, Who


def cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={token}"}


@pytest.fixture
async def bench(db: Database) -> AsyncIterator[Workbench]:
    auth = Auth(db, profile=TESTING, validation_connections=1)
    bench = Workbench(db, auth, credentials=cookie)
    yield bench
    await bench.close()


# All at once: a walk for each would cost some seconds, and each is an operation of its own.
async def test_each_way_is_found(bench: Workbench) -> None:
    """The report names the operation, the parameter, and what came of it."""
    app = Ways(bench.db, bench.auth, leaks=True).app
    with pytest.raises(IsolationError) as raised:
        await assert_isolated(app, bench=bench, host=HOST)
    report = raised.value.report
    missed = [
        operation
        for operation, (parameter, what) in WAYS.items()
        if not any(
            leak.operation == operation and parameter in leak.parameter and what in leak.what
            for leak in report.leaks
        )
    ]
    assert not missed, str(report)
    assert not report.unexercised


@pytest.mark.untraced
async def test_the_same_mended_pass(bench: Workbench) -> None:
    """All of it is carried out, and nothing of it is reported."""
    app = Ways(bench.db, bench.auth, leaks=False).app
    report = await assert_isolated(app, bench=bench, host=HOST)
    assert report.operations == len(WAYS) + 3


async def test_a_client_with_a_cookie_comes_from_the_applications_pages(bench: Workbench) -> None:
    """Else the door's rule against other sites would refuse whatever it changes."""
    app = Ways(bench.db, bench.auth, leaks=False).app
    client = await bench.client_of(await bench.make_user(), app=app)
    assert (await client.post("/drafts", json={"text": "mine"})).status_code == 201
    foreign = {"Sec-Fetch-Site": "cross-site"}
    answer = await client.post("/drafts", json={"text": "theirs"}, headers=foreign)
    assert answer.status_code == 403


async def test_what_cannot_be_walked_is_named(bench: Workbench) -> None:
    """A WebSocket that understands nothing, a host's routes, and routes that are not shown."""
    app = FastAPI()
    app.state.auth = bench.auth
    app.router.routes.append(Host("files.example", FastAPI()))

    @app.websocket("/quiet")
    async def quiet(socket: WebSocket, who: Who) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            if text == "knock":
                await socket.send_text("Who is there?")

    with pytest.raises(IsolationError) as raised:
        await assert_isolated(app, bench=bench)
    named = raised.value.report.unexercised
    assert [each.subject for each in named] == ["WEBSOCKET /quiet", "Host files.example"]
    assert "give its messages" in named[0].reason
    examples = {"WEBSOCKET /quiet": {"messages": ["knock"]}}
    await assert_isolated(app, bench=bench, skip=["Host *"], examples=examples)

    async def closed(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    with pytest.raises(IsolationError) as raised:
        await assert_isolated(closed, bench=bench)
    assert [each.subject for each in raised.value.report.unexercised] == [UNSEEN]
