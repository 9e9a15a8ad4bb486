"""The routes of signing in: cookies, sessions, mails, and what they do not tell."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from http.cookies import SimpleCookie
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from tenantry.auth.profiles import TESTING
from tenantry.errors import ConfigurationError
from tenantry.fastapi import DoorSettings, host_or_body, require_role
from tests.conftest import TenantPair, Urls
from tests.fastapi.conftest import (
    EMAIL,
    PASSWORD,
    SITE,
    Site,
    eventually,
    make_app,
    running,
    sign_in,
)

NEW = "another fine day of may"


def cookies(response: httpx.Response) -> SimpleCookie:
    """The cookies that a response sets."""
    jar = SimpleCookie()
    for each in response.headers.get_list("set-cookie"):
        jar.load(each)
    return jar


async def mailed(site: Site, count: int) -> list[str]:
    """The tokens that were mailed, once there are so many."""

    async def are_there() -> bool:
        return len(site.mails) >= count

    await eventually(are_there)
    return [mail.token for mail in site.mails]


async def test_cookies_are_as_they_should_be(site: Site) -> None:
    """Two cookies for this host alone, out of reach of scripts, other sites and plain HTTP."""
    jar = cookies(await sign_in(site.client()))
    lifetimes = {
        "__Host-session": TESTING.absolute_lifetime,
        "__Host-session-device": TESTING.device_lifetime,
    }
    assert set(jar) == set(lifetimes)
    for name, lifetime in lifetimes.items():
        cookie = jar[name]
        assert cookie["secure"] is True
        assert cookie["httponly"] is True
        assert (cookie["samesite"], cookie["path"], cookie["domain"]) == ("Lax", "/", "")
        assert int(cookie["max-age"]) == lifetime.total_seconds()


async def test_a_session_goes_from_sign_in_to_sign_out(site: Site) -> None:
    """Signed in, the user is known; signed out, the cookie goes and a kept copy opens nothing."""
    client = await site.signed_in()
    token = client.cookies["__Host-session"]
    me = (await client.get("/auth/session")).json()
    assert (me["user"]["email"], me["user"]["role"]) == (EMAIL, "owner")
    response = await client.post("/auth/sign-out")
    assert response.status_code == 204
    assert cookies(response)["__Host-session"]["max-age"] == "0"
    assert list(client.cookies) == ["__Host-session-device"]
    kept = site.client(Cookie=f"__Host-session={token}")
    assert (await kept.get("/auth/session")).status_code == 401
    assert (await client.post("/auth/sign-out")).status_code == 204


async def test_whoever_signs_out_is_signed_out(site: Site, tenants: TenantPair) -> None:
    """Each session that the request shows has ended, beside another credential and doubled too."""
    key = (await site.auth.issue_api_key(tenants.a.id)).key

    async def is_open(token: str) -> bool:
        kept = site.client(Authorization=f"Bearer {token}")
        return (await kept.get("/auth/session")).status_code == 200

    for beside in ({"X-API-Key": key}, {"X-API-Key": "x"}, {"Authorization": "Bearer x"}):
        client = await site.signed_in()
        token = client.cookies["__Host-session"]
        assert (await client.post("/auth/sign-out", headers=beside)).status_code == 204
        assert not await is_open(token), beside
    shown = [(await site.signed_in()).cookies["__Host-session"] for _ in range(3)]
    cookie = "; ".join(f"__Host-session={token}" for token in shown[:2])
    client = site.client(Cookie=cookie, Authorization=f"Bearer {shown[2]}")
    assert (await client.post("/auth/sign-out")).status_code == 204
    assert [await is_open(token) for token in shown] == [False] * 3
    shown = [(await site.signed_in()).cookies["__Host-session"] for _ in range(2)]
    cookie = "; ".join(f"__Host-session={token}" for token in shown)
    assert (await sign_in(site.client(Cookie=cookie, Origin=SITE))).status_code == 200
    assert [await is_open(token) for token in shown] == [False] * 2


async def test_a_sign_out_looks_for_few_sessions(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers cannot have the database asked for each of the cookies that fit into a header."""
    asked: list[str] = []

    async def sign_out(token: str, **_: object) -> bool:
        asked.append(token)
        return False

    monkeypatch.setattr(site.auth, "sign_out", sign_out)
    cookie = "; ".join(f"__Host-session={uuid4()}.{'x' * 22}.{'x' * 43}" for _ in range(100))
    assert (await site.client(Cookie=cookie, Origin=SITE).post("/auth/sign-out")).status_code == 204
    assert 1 < len(asked) < 10


async def test_a_session_cannot_be_fixed(site: Site) -> None:
    """Sign-in gives a new token, whatever the browser had; that session ends."""
    first = await site.signed_in()
    old = first.cookies["__Host-session"]
    assert (await sign_in(first)).status_code == 200
    assert first.cookies["__Host-session"] != old
    assert (await first.get("/api/widgets")).status_code == 200
    assert (
        await site.client(Cookie=f"__Host-session={old}").get("/api/widgets")
    ).status_code == 401


async def test_a_sign_in_to_another_tenant_ends_the_session_too(site: Site) -> None:
    """The browser has one session, of whichever tenant; a sign-in that fails ends none."""
    browser = await site.signed_in()
    old = site.client(Cookie=f"__Host-session={browser.cookies['__Host-session']}")
    assert (await sign_in(browser, tenant="globex", password="wrong")).status_code == 401
    assert (await old.get("/api/widgets")).status_code == 200
    globex = {"tenant": "globex", "email": "bob@globex.example"}
    assert (await sign_in(browser, **globex)).status_code == 200
    assert (await browser.get("/auth/session")).json()["user"]["email"] == globex["email"]
    assert (await old.get("/api/widgets")).status_code == 401
    gone = site.client(Cookie=f"__Host-session={uuid4()}.{'x' * 22}.{'x' * 43}", Origin=SITE)
    assert (await sign_in(gone, **globex)).status_code == 200


async def test_bearer_tokens_are_for_clients_without_cookies(site: Site) -> None:
    """They come in the body when asked for, and need neither origin nor cookie."""
    response = await sign_in(site.client(**{"User-Agent": "app"}), transport="bearer")
    assert "set-cookie" not in response.headers
    token = response.json()["token"]
    app = site.client(Authorization=f"Bearer {token}")
    assert (await app.post("/api/widgets", json={"name": "x"})).status_code == 201
    assert (await app.get("/auth/session")).json()["user"]["email"] == EMAIL
    assert (await site.client().get(f"/api/widgets?token={token}")).status_code == 401
    assert (await app.post("/auth/sign-out")).status_code == 204
    assert (await app.get("/auth/session")).status_code == 401


async def test_sessions_are_listed_and_ended(site: Site, tenants: TenantPair) -> None:
    """One there, all others, and this one; nobody else's."""
    here, there, elsewhere = [await site.signed_in() for _ in range(3)]
    bob = await site.signed_in("bob@globex.example", tenant="globex")
    ids = [each["id"] for each in (await here.get("/auth/sessions")).json()]
    mine, theirs = [(await each.get("/auth/session")).json()["session_id"] for each in (here, bob)]
    assert len(ids) == 3
    assert theirs not in ids
    assert (await here.delete(f"/auth/sessions/{theirs}")).status_code == 404
    assert (await here.delete("/auth/sessions/nonsense%00")).status_code == 404
    assert (await here.delete(f"/auth/sessions/{ids[0]}")).status_code == 204
    assert (await elsewhere.get("/auth/session")).status_code == 401
    assert (await here.delete("/auth/sessions")).status_code == 204
    assert (await there.get("/auth/session")).status_code == 401
    assert (await bob.get("/auth/session")).status_code == 200
    response = await here.delete(f"/auth/sessions/{mine}")
    assert cookies(response)["__Host-session"]["max-age"] == "0"


async def test_unknown_tenants_look_like_wrong_passwords(site: Site) -> None:
    """By slug, id or host, and with nothing said: one status, one body, and a hash is computed."""
    bodies = set()
    client = site.client()
    tenants: list[str | None] = ["nope", str(uuid4()), None, "no slug"]
    wrong: list[dict[str, Any]] = [{"tenant": each} for each in tenants]
    for fields in [*wrong, {"password": "wrong"}, {"email": "nobody@acme.example"}]:
        response = await sign_in(client, **fields)
        problem = response.json()
        bodies.add((response.status_code, problem["type"], problem["detail"]))
    assert len(bodies) == 1
    assert bodies.pop()[0] == 401


async def test_a_flood_of_unknown_tenants_keeps_nobody_out(site: Site) -> None:
    """Such sign-ins are counted nowhere, and get a small part of the queue for hashing."""
    client = site.client()
    flood = [asyncio.create_task(sign_in(client, tenant="nope")) for _ in range(100)]
    await eventually(flooded(site))
    assert (await sign_in(site.client())).status_code == 200
    statuses = Counter(response.status_code for response in await asyncio.gather(*flood))
    assert statuses.keys() == {401, 503}
    assert statuses[503] > statuses[401]
    assert (await sign_in(client, tenant="nope")).status_code == 401


def flooded(site: Site) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return site.auth._without_tenant > 0

    return holds


async def test_nothing_needs_the_administrator(site: Site, admin: asyncpg.Connection) -> None:
    """Without its URL, tenants are found by slug; a slug is nobody's, or another's, at once."""
    with pytest.raises(ConfigurationError, match="TENANTRY_ADMIN_URL"):
        site.app.state.tenantry.db.operator()

    async def statuses() -> list[int]:
        slugs = ("acme", "globex", "ajax")
        return [(await sign_in(site.client(), tenant=each)).status_code for each in slugs]

    assert await statuses() == [200, 401, 401]
    await admin.execute("UPDATE tenants SET slug = 'ajax' WHERE slug = 'acme'")
    assert await statuses() == [401, 401, 200]
    await admin.execute("UPDATE tenants SET slug = 'acme' WHERE slug = 'globex'")
    assert await statuses() == [401, 401, 200]


async def test_the_host_names_the_tenant(urls: Urls, tenants: TenantPair) -> None:
    """Below the base domain, the first label is the slug, whatever the body says."""
    async with running(urls, base_domain="example.com") as site:
        await site.auth.register(tenants.a.id, EMAIL, PASSWORD)
        statuses = {}
        for host in ("acme.example.com", "globex.example.com", "acme.example.com.evil", "acme"):
            client = site.client(base=f"https://{host}")
            statuses[host] = (await sign_in(client, tenant="acme")).status_code
        assert statuses.pop("acme.example.com") == 200
        assert set(statuses.values()) == {401}


@pytest.mark.parametrize("prefix", ["", "/", "auth", "/auth/", "//auth", "/{org}/auth", "/a b"])
def test_a_prefix_that_leads_nowhere_is_refused(prefix: str) -> None:
    """At once, and with an example of what is required."""
    with pytest.raises(ConfigurationError, match=f"{re.escape(repr(prefix))}.* /auth is required"):
        DoorSettings(prefix=prefix)


@pytest.mark.parametrize(
    "domain", ["", ".example.com", "example.com.", "example.com:443", "https://example.com", "a b"]
)
def test_a_base_domain_that_no_host_is_below_is_refused(domain: str) -> None:
    """Nobody could sign in, and nothing would say why."""
    told = f"{re.escape(repr(domain))}.* example.com is required"
    with pytest.raises(ConfigurationError, match=told):
        DoorSettings(base_domain=domain)
    with pytest.raises(ConfigurationError, match=told):
        host_or_body(domain)


def test_settings_of_other_shapes_stay_possible() -> None:
    """Prefixes of several parts, and domains in capitals or of one label."""
    for prefix in ("/auth", "/api/v1/sign_in", "/a-b/~c.d"):
        assert DoorSettings(prefix=prefix).prefix == prefix
    for domain in ("example.com", "Desk.Example.COM", "localhost", "xn--bcher-kva.example", None):
        assert DoorSettings(base_domain=domain).base_domain == domain


def test_a_role_that_there_is_not_is_refused() -> None:
    """Where it is written, with the names of those that there are."""
    for role in ("x", "Owner", "", None):
        with pytest.raises(ConfigurationError, match=r"member, admin or owner is required"):
            require_role(role)  # type: ignore[arg-type]


async def test_anybody_may_sign_up_and_nobody_learns_who_has(
    site: Site, tenants: TenantPair
) -> None:
    """The same answer and the same mail for a new member, a known one, and a tenant not there."""
    client = site.client()
    answers = set()
    for wrong in ({"email": "x"}, {"name": "\0"}):
        for tenant in ("acme", "nope"):
            body = {"email": "x@acme.example", "tenant": tenant, **wrong}
            assert (await client.post("/auth/sign-up", json=body)).status_code == 422
    for fields in [{"email": "new@acme.example"}, {"email": EMAIL}, {"tenant": "nope"}]:
        body = {"email": "x@acme.example", "tenant": "acme", **fields}
        response = await client.post("/auth/sign-up", json=body)
        answers.add((response.status_code, response.content))
    assert answers == {(202, b"null")}
    await mailed(site, 2)
    assert {(mail.purpose, mail.email) for mail in site.mails} == {
        ("reset_password", "new@acme.example"),
        ("reset_password", EMAIL),
    }
    token = next(mail.token for mail in site.mails if mail.email == "new@acme.example")
    redeemed = await client.post("/auth/password-reset/redeem", json={"token": token, "new": NEW})
    assert redeemed.status_code == 204, redeemed.text
    assert (await sign_in(client, email="new@acme.example", password=NEW)).status_code == 200
    assert (await client.get("/auth/session")).json()["user"]["role"] == "member"


async def test_passwords_are_changed_and_reset(site: Site) -> None:
    """Changed with the old one, reset with a mailed token, once; emails are verified alike."""
    client, other = await site.signed_in(), await site.signed_in()
    wrong = await client.post("/auth/password", json={"current": "wrong", "new": NEW})
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
    weak = await client.post("/auth/password", json={"current": PASSWORD, "new": "password"})
    assert (weak.status_code, weak.json()["reason"]) == (422, "common")
    changed = await client.post("/auth/password", json={"current": PASSWORD, "new": NEW})
    assert changed.status_code == 204, changed.text
    assert (await client.get("/auth/session")).status_code == 200
    assert (await other.get("/auth/session")).status_code == 401
    asked = await client.post("/auth/email-verification")
    assert asked.status_code == 202
    (token,) = await mailed(site, 1)
    for status in (204, 401):
        proof = await client.post("/auth/email-verification/redeem", json={"token": token})
        assert proof.status_code == status
    assert (await client.get("/auth/session")).json()["user"]["email_verified_at"]
    for email in (EMAIL, "nobody@acme.example"):
        body = {"email": email, "tenant": "acme"}
        assert (await client.post("/auth/password-reset", json=body)).status_code == 202
    token = (await mailed(site, 2))[1]
    for status in (204, 401):
        body = {"token": token, "new": PASSWORD}
        reset = await client.post("/auth/password-reset/redeem", json=body)
        assert reset.status_code == status
    assert (await client.get("/auth/session")).status_code == 401
    assert len(site.mails) == 2


async def test_a_copy_of_the_cookie_ends_with_the_password(site: Site) -> None:
    """Whoever has stolen it is out; the browser goes on, in the same session, with a new one."""
    client = await site.signed_in()
    before = client.cookies["__Host-session"]
    ids = {(await client.get("/auth/session")).json()["session_id"]}
    changed = await client.post("/auth/password", json={"current": PASSWORD, "new": NEW})
    assert changed.status_code == 204
    assert cookies(changed)["__Host-session"]["httponly"] is True
    assert client.cookies["__Host-session"] != before
    ids.add((await client.get("/auth/session")).json()["session_id"])
    assert len(ids) == 1
    thief = site.client(Cookie=f"__Host-session={before}")
    assert (await thief.get("/auth/session")).status_code == 401


async def test_a_bearer_token_stays_when_the_password_changes(site: Site) -> None:
    """The answer has no place for another: who wants one signs in again."""
    token = (await sign_in(site.client(), transport="bearer")).json()["token"]
    app = site.client(Authorization=f"Bearer {token}")
    changed = await app.post("/auth/password", json={"current": PASSWORD, "new": NEW})
    assert (changed.status_code, "set-cookie" in changed.headers) == (204, False)
    assert (await app.get("/auth/session")).status_code == 200


async def test_guessing_is_throttled(site: Site) -> None:
    """429 with Retry-After, by the account, however its tenant is spelled."""
    client = site.client()
    assert (await sign_in(client, tenant="ACME")).status_code == 200
    spellings = itertools.cycle(["acme", "Acme", "ACME"])
    client = site.client()
    for _ in range(TESTING.account_attempts):
        response = await sign_in(client, tenant=next(spellings), password="wrong")
        assert response.status_code == 401
    response = await sign_in(client, tenant=next(spellings), password="wrong")
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 0


async def test_development_serves_pages_of_other_servers_at_home(
    urls: Urls, tenants: TenantPair
) -> None:
    """Those of another port of this machine, and those that the application trusts by name."""
    trusted = "http://desk.test:5173"
    async with running(urls, insecure_http=True, trusted_origins=[trusted]) as site:
        for origin in ("http://localhost:5173", "https://desk.localhost", trusted):
            client = site.client(base="http://localhost:8000", Origin=origin)
            assert (await client.get("/healthz")).status_code == 204, origin


async def test_development_over_plain_http_says_so_and_stays_at_home(
    urls: Urls, tenants: TenantPair, caplog: pytest.LogCaptureFixture
) -> None:
    """A loud warning, a cookie without Secure, and no other machine or host is served."""
    async with running(urls, insecure_http=True) as site:
        assert "INSECURE" in caplog.text
        await site.auth.register(tenants.a.id, EMAIL, PASSWORD)
        client = site.client(base="http://localhost:8000", Origin="http://localhost:8000")
        jar = cookies(await sign_in(client))
        assert set(jar) == {"session", "session-device"}
        assert jar["session"]["secure"] == ""
        assert jar["session"]["httponly"] is True
        away = httpx.ASGITransport(site.app, client=("192.0.2.7", 1))
        async with httpx.AsyncClient(transport=away, base_url="http://localhost") as stranger:
            assert (await stranger.get("/healthz")).status_code == 403
        rebound = site.client(base="http://evil.example")
        assert (await rebound.get("/healthz")).status_code == 403
        # What a proxy on this machine sends, and a client of which it says what it likes.
        for name in ("X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Via"):
            assert (await client.get("/healthz", headers={name: "127.0.0.1"})).status_code == 403
        # A proxy that says nothing, as nginx by itself: the browser's page tells where it is.
        for method in ("GET", "POST"):
            for origin in ("https://desk.example.com", "null", "http://localhost.evil.example"):
                page = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
                answer = await client.request(method, "/auth/sign-in", headers=page)
                assert answer.status_code == 403, (method, origin)
        odd = httpx.ASGITransport(site.app, client=("unknown", 1))
        async with httpx.AsyncClient(transport=odd, base_url="http://localhost") as stranger:
            assert (await stranger.get("/healthz")).status_code == 403


def test_settings_that_cannot_be_used_are_refused(urls: Urls) -> None:
    """Where the application is made, not when somebody signs in."""
    for options in (
        {"sign_up": True},
        {"trusted_origins": ["https://example.com/"]},
        {"cookie_name": "a;b"},
    ):
        with pytest.raises(ConfigurationError):
            make_app(DoorSettings(**options))


async def test_nothing_secret_is_logged_or_answered(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """No password, token or key in a log at any level, or in a body but where it was asked for."""
    caplog.set_level(logging.DEBUG)
    client = await site.signed_in()
    token = client.cookies["__Host-session"]
    said = [
        await sign_in(client, password=NEW),
        await sign_in(client, email=NEW, tenant=NEW),
        await sign_in(client, password=[NEW], extra=NEW),
        await client.post("/auth/sign-in", content=f'{{"password": "{NEW}"'),
        await client.post("/auth/password", json={"current": NEW, "new": NEW}),
        await client.post("/auth/password-reset/redeem", json={"token": NEW * 99, "new": NEW}),
        await client.get(f"/api/widgets?password={NEW}"),
        await client.get(f"/nowhere/{NEW}"),
        await client.get("/auth/session"),
        await client.get("/openapi.json"),
    ]
    texts = [each.text for each in said]
    texts += [repr(each.__dict__) for each in caplog.records if not each.name.startswith("httpx")]
    for secret in (NEW, PASSWORD, token, token.rpartition(".")[2]):
        assert not [text for text in texts if secret in text]
    record = next(each for each in caplog.records if getattr(each, "route", "") == "/auth/password")
    assert record.__dict__.items() >= {"method": "POST", "status": 401}.items()
    assert record.__dict__["request_id"] == said[4].headers["x-request-id"]
    assert record.__dict__["tenant_id"] in token


async def test_answers_are_not_to_be_stored(site: Site) -> None:
    """Those of our own routes, those that used a credential, and problems."""
    client = await site.signed_in()
    for path in ("/auth/session", "/api/widgets", "/api/who"):
        assert (await client.get(path)).headers["cache-control"] == "no-store"
    stranger = site.client()
    for path in ("/healthz", "/readyz", "/api/widgets", "/nowhere"):
        assert (await stranger.get(path)).headers.get_list("cache-control") == ["no-store"], path
    assert (await stranger.put("/api/widgets")).headers["cache-control"] == "no-store"
    assert "cache-control" not in (await stranger.get("/docs")).headers
