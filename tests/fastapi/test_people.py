"""What browsers are shown in place of problem details, and which tenant a host names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tenantry.fastapi import DoorSettings, host_or_body
from tests.conftest import TenantPair, Urls
from tests.fastapi.conftest import EMAIL, PASSWORD, SITE, Site, make_app, running, sign_in

SECRET = "seen by nobody"
BROWSER = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Site": "same-origin"}


def page(problem: Mapping[str, Any]) -> str:
    return f"<h1>{problem['status']} {problem['title']}</h1>{problem['instance']}"


@pytest.fixture
async def pages(urls: Urls, tenants: TenantPair) -> AsyncIterator[Site]:
    """The application with pages for people; its sign-in page is ``/api/who``."""
    async with running(urls, sign_in_page="/api/who", page=page) as site:
        site.raises = False
        await site.auth.register(tenants.a.id, EMAIL, PASSWORD)
        yield site


async def test_browsers_are_sent_to_the_sign_in_page(pages: Site) -> None:
    """Where nobody is signed in; programs are told 401, and no cache mixes both."""
    browser, program = pages.client(**BROWSER), pages.client(Accept="application/json")
    for more in ({}, {"Cookie": "__Host-session=x.y.z"}):
        answer = await browser.get("/api/widgets", headers=more)
        assert (answer.status_code, answer.headers["location"]) == (303, "/api/who")
        told = await program.get("/api/widgets", headers=more)
        assert (told.status_code, told.json()["status"]) == (401, 401)
        for each in (answer, told):
            assert (each.headers["vary"], each.headers["cache-control"]) == ("accept", "no-store")
    # To send this one there again would have no end.
    answer = await browser.get("/api/who", headers={"Authorization": "Bearer x"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_that_browsers_are_sent_there_is_documented(pages: Site) -> None:
    """For each operation that asks for a caller, the door's own too; elsewhere nothing is said."""
    browser, sent = pages.client(**BROWSER), 0
    bad = {"Authorization": "Bearer x"}
    for path, item in pages.app.openapi()["paths"].items():
        for method, operation in item.items():
            at = path.replace("{session_id}", "x")
            answer = await browser.request(method, at, headers=bad, json={"token": "x", "new": "x"})
            is_sent = answer.status_code == 303
            assert is_sent <= ("303" in operation["responses"]), (method, path)
            assert ("303" in operation["responses"]) == ("security" in operation), (method, path)
            sent += is_sent
    assert sent >= 10
    assert '"303"' not in json.dumps(make_app(DoorSettings()).openapi())


async def test_the_sign_in_page_is_found_below_a_root_path(pages: Site) -> None:
    """Where the application is mounted, or a proxy serves it under a path of its own."""
    mounted = Starlette(routes=[Mount("/desk", pages.app)])
    for app in (mounted, pages.app):
        transport = httpx.ASGITransport(app, root_path="" if app is mounted else "/desk")
        async with httpx.AsyncClient(transport=transport, base_url=SITE, headers=BROWSER) as client:
            answer = await client.get("/desk/api/widgets")
            assert (answer.status_code, answer.headers["location"]) == (303, "/desk/api/who")
            answer = await client.get("/desk/api/who", headers={"Authorization": "Bearer x"})
            assert answer.status_code == 401


async def test_a_sign_in_page_may_be_elsewhere(urls: Urls, tenants: TenantPair) -> None:
    """On a site for all products of a company, say."""
    async with running(urls, sign_in_page="https://login.example.com/") as site:
        transport = httpx.ASGITransport(site.app, root_path="/desk")
        async with httpx.AsyncClient(transport=transport, base_url=SITE, headers=BROWSER) as client:
            answer = await client.get("/desk/api/widgets")
            assert answer.headers["location"] == "https://login.example.com/"


async def test_a_page_that_is_no_text_is_replaced(urls: Urls, tenants: TenantPair) -> None:
    """As where it fails: a function that forgot to return, say."""
    async with running(urls, page=lambda _: None) as site:
        answer = await site.client(**BROWSER).get("/nowhere")
        assert (answer.status_code, answer.json()["status"]) == (404, 404)


async def test_a_page_that_fails_is_replaced(
    urls: Urls, tenants: TenantPair, caplog: pytest.LogCaptureFixture
) -> None:
    """The problem is told in JSON, with its own status, and the log says where the page failed."""

    def page(problem: Mapping[str, Any]) -> str:
        raise ValueError(SECRET)

    async with running(urls, page=page) as site:
        browser = site.client(**BROWSER)
        answers = (
            (404, await browser.get("/nowhere")),
            (403, await browser.post("/auth/sign-in", headers={"Sec-Fetch-Site": "cross-site"})),
        )
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    for (status, answer), line in zip(answers, logged, strict=True):
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert answer.headers["content-type"] == "application/problem+json"
        assert line.startswith("ValueError at ")
        assert "test_people.py" in line
        assert line.endswith(answer.headers["x-request-id"])
    assert SECRET not in caplog.text


async def test_a_wrong_password_is_no_way_out(pages: Site) -> None:
    """A 401 that is not about the session shows the page, and leads nowhere."""
    browser = pages.client(**BROWSER)
    answer = await sign_in(browser, password="wrong")
    assert (answer.status_code, "401 Unauthorized" in answer.text) == (401, True)
    assert (await sign_in(browser)).status_code == 200
    answer = await browser.post("/auth/password", json={"current": "wrong", "new": "x" * 20})
    assert (answer.status_code, "401 Unauthorized" in answer.text) == (401, True)


async def test_people_are_shown_pages(pages: Site) -> None:
    """With the same status and id, whoever answers: routes, the middleware, or after a defect."""
    browser = pages.client(**BROWSER)
    pages.app.state.error = ValueError(SECRET)
    strange = {"Sec-Fetch-Site": "cross-site"}
    for status, answer in (
        (404, await browser.get("/nowhere")),
        (422, await browser.post("/auth/sign-in", json={})),
        (403, await browser.post("/auth/sign-in", headers=strange)),
        (413, await browser.post("/auth/sign-in", content=b"x" * 70_000)),
        (500, await browser.get("/api/fails")),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text.startswith(f"<h1>{status} ")
        assert answer.text.endswith(answer.headers["x-request-id"])
        assert SECRET not in answer.text
    told = await browser.get("/nowhere", headers={"Accept": "*/*"})
    assert told.headers["content-type"] == "application/problem+json"


async def test_without_pages_everybody_is_told_in_json(site: Site) -> None:
    """As an API does; the settings are for who wants pages."""
    answer = await site.client(**BROWSER).get("/api/widgets")
    assert (answer.status_code, answer.json()["status"]) == (401, 401)
    assert "vary" not in answer.headers


async def test_the_host_or_else_the_body_names_the_tenant(urls: Urls, tenants: TenantPair) -> None:
    """On a tenant's host the body counts for nothing; on others it does, and must be right."""
    async with running(urls, resolve_tenant=host_or_body("example.com")) as site:
        await site.auth.register(tenants.a.id, EMAIL, PASSWORD)
        for host, tenant, status in (
            ("acme.example.com", "globex", 200),
            ("globex.example.com", "acme", 401),
            ("nope.example.com", "acme", 401),
            ("example.com", "acme", 200),
            ("app.example.org", str(tenants.a.id), 200),
            ("example.com", "globex", 401),
            ("example.com", None, 401),
        ):
            client = site.client(base=f"https://{host}")
            assert (await sign_in(client, tenant=tenant)).status_code == status, (host, tenant)


async def test_a_resolver_may_give_an_id(urls: Urls, tenants: TenantPair) -> None:
    """One that has a look-up of its own."""

    async def resolve(request: Any, named: str | None) -> Any:
        return tenants.a.id if request.url.hostname == "app.example.com" else None

    async with running(urls, resolve_tenant=resolve) as site:
        await site.auth.register(tenants.a.id, EMAIL, PASSWORD)
        assert (await sign_in(site.client(base=SITE), tenant="globex")).status_code == 200
        assert (await sign_in(site.client(base="https://x.example"))).status_code == 401
