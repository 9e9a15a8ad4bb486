"""The support desk with its two companies, on one database for all tests of this folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, cast

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Table
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from support_desk.app import create_app
from support_desk.demo import PASSWORD, fill
from support_desk.models import SavedReply
from tenantry import Database
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.fastapi import DoorSettings
from tenantry.ops.migrations import migrate
from tenantry.ops.project import load_project
from tenantry.schema import Base
from tenantry.schema.row_security import APP_ROLE
from tests.conftest import Server, Urls
from tests.example.browser import Browser, Page, find_chromium, running_browser
from tests.places import scratch
from tests.serving import serving

# Other tests walk through all tables that are declared, and their databases have tenantry's alone.
TABLE = cast("Table", SavedReply.__table__)
Base.metadata.remove(TABLE)

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "support_desk"
NOW = datetime(2025, 6, 11, 14, 0, tzinfo=UTC)
"""When the demo's last day is, so that pages look the same every day."""

SITE = "https://desk.example.com"


@pytest.fixture(scope="session")
async def desk_urls(server: Server, template: str) -> AsyncIterator[Urls]:
    """A database with the desk's migration and both companies."""
    name = await server.create_database(template=template)
    urls = Urls(app=server.at(name, user=APP_ROLE), admin=server.at(name))
    await migrate(urls.admin, project=load_project(EXAMPLE))
    async with Database.connect(settings=urls.settings) as db:
        await fill(db, Auth(db, profile=TESTING), now=NOW)
    yield urls
    await server.drop_database(name)


def desk_app(urls: Urls, **options: Any) -> FastAPI:
    """The desk as in production, but for what passwords cost."""
    given = {"database": urls.settings, "profile": TESTING, **options}
    return create_app(DoorSettings(**given))


@dataclass
class Desk:
    """The desk in this process, and browsers that are only clients."""

    app: FastAPI
    stack: AsyncExitStack

    @property
    def db(self) -> Database:
        return self.app.state.tenantry.db  # type: ignore[no-any-return]

    async def client(self, *, base: str = SITE, raises: bool = True) -> httpx.AsyncClient:
        """A client that says what a browser on the desk's pages would."""
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=raises),
            base_url=base,
            headers={"Accept": "text/html,*/*", "Sec-Fetch-Site": "same-origin"},
        )
        return await self.stack.enter_async_context(client)

    async def signed_in(self, email: str = "ada@acme.example", **options: Any) -> httpx.AsyncClient:
        client = await self.client(**options)
        response = await sign_in(client, email=email)
        assert response.status_code == 303, response.text
        return client


async def sign_in(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    email = fields.get("email", "ada@acme.example")
    workspace = email.partition("@")[2].removesuffix(".example")
    form = {"workspace": workspace, "email": email, "password": PASSWORD, **fields}
    return await client.post("/sign-in", data=form)


@pytest.fixture(scope="session")
async def desk(desk_urls: Urls) -> AsyncIterator[Desk]:
    """The desk, running."""
    app = desk_app(desk_urls)
    async with app.router.lifespan_context(app), AsyncExitStack() as stack:
        yield Desk(app, stack)


@dataclass
class Seen:
    """A request as it arrived, and how it was answered."""

    method: str
    path: str
    cookies: set[str]
    site: str | None
    status: int | None = None


@dataclass
class Recorded:
    """An application, and the requests that have arrived."""

    app: ASGIApp
    requests: list[Seen] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        cookies = {part.split("=")[0].strip() for part in headers.get("cookie", "").split(";")}
        site = headers.get("sec-fetch-site")
        seen = Seen(scope["method"], scope["path"], cookies - {""}, site)
        self.requests.append(seen)

        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
            await send(message)

        return await self.app(scope, receive, noting)


def _lacking(reason: str) -> NoReturn:
    """Skip the test, and where CI is set fail it: there nobody would see that it was skipped."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and the certificate that it has signed itself, for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        _lacking("No openssl to make a certificate with. Install it.")
    pem = tmp_path_factory.mktemp("certificate") / "site.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-keyout", pem, "-out", pem.with_suffix(".crt")),
        ],
        check=True,
        capture_output=True,
    )
    with pem.open("a") as file:
        file.write(pem.with_suffix(".crt").read_text())
    ssl.create_default_context().load_cert_chain(pem)
    return pem


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all tests that need one."""
    program = await asyncio.to_thread(find_chromium)
    if program is None:
        _lacking(
            "There is no Chromium to test in. `scripts/chromium` gets one on Debian; elsewhere "
            "install it."
        )
    folder = scratch("chromium-")
    async with running_browser(program, folder) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Site:
    """The desk behind HTTPS, a stranger's site beside it, and a browser."""

    url: str
    desk: Recorded
    near: str
    """Another port of the same host: another origin, but the same site, so cookies are sent."""
    far: str
    """Another host."""
    browser: Browser
    urls: Urls

    async def signed_in(self, email: str = "ada@acme.example") -> Page:
        page = await self.browser.person()
        await self.sign_in(page, email=email)
        return page

    async def sign_in(self, page: Page, *, email: str = "ada@acme.example") -> None:
        await page.goto(f"{self.url}/sign-in")
        await page.fill("Workspace", email.partition("@")[2].removesuffix(".example"))
        await page.fill("Email", email)
        await page.fill("Password", PASSWORD)
        await page.click("Sign in")


async def _stranger(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<!doctype html><p>Win a bicycle!"})


@pytest.fixture(scope="session")
async def site(desk_urls: Urls, certificate: Path, browser: Browser) -> AsyncIterator[Site]:
    """The desk behind HTTPS, as in production."""
    recorded = Recorded(desk_app(desk_urls))
    async with (
        serving(recorded, certificate=certificate) as port,
        serving(_stranger, certificate=certificate) as other,
    ):
        near, far = f"https://127.0.0.1:{other}", f"https://localhost:{other}"
        yield Site(f"https://127.0.0.1:{port}", recorded, near, far, browser, desk_urls)
        await browser.leave()
