"""What comes in: from other sites, with others' credentials, malformed, or too much of it."""

# No `from __future__ import annotations`: FastAPI could not resolve what is local.

import logging
from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest
from fastapi import APIRouter, FastAPI
from starlette.routing import Match

from tenantry.asgi import Door, DoorSettings, Exchange
from tenantry.fastapi import CurrentPrincipal
from tenantry.fastapi.router import Routes
from tests.conftest import TenantPair, Urls
from tests.fastapi.conftest import EMAIL, PASSWORD, SITE, Site, routes, running, sign_in

OWN = {"Origin": SITE}
OTHER = "https://evil.example"
TRUSTED = "https://admin.example.com"

# What a browser or program sends, and whether it may change something with a cookie.
ORIGINS: list[tuple[dict[str, str], bool]] = [
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "same-origin", **OWN}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "same-site", "Origin": "https://x.example.com"}, False),
    ({"Sec-Fetch-Site": "same-site", "Origin": TRUSTED}, True),
    ({"Sec-Fetch-Site": "cross-site", "Origin": OTHER}, False),
    ({"Sec-Fetch-Site": "cross-site", **OWN}, False),
    ({"Sec-Fetch-Site": "nonsense"}, False),
    (OWN, True),
    ({"Origin": SITE.replace("https", "http")}, False),
    ({"Origin": SITE + ":444"}, False),
    ({"Origin": OTHER}, False),
    ({"Origin": TRUSTED}, True),
    ({"Origin": TRUSTED + ".evil.example"}, False),
    ({"Origin": "null"}, False),
    ({"Authorization": "Basic eDp5"}, False),
    ({"User-Agent": "says nothing"}, False),
]


@pytest.fixture
async def trusting(urls: Urls, tenants: TenantPair) -> AsyncIterator[Site]:
    """The application, with another origin that it trusts."""
    async with running(urls, trusted_origins=[TRUSTED]) as site:
        yield site


async def test_other_sites_change_nothing(trusting: Site) -> None:
    """Every unsafe method, sign-in included, is refused before anything else is looked at."""
    calls = [(method, "/api/widgets") for method in ("POST", "PUT", "PATCH", "DELETE", "X-ODD")]
    for headers, allowed in ORIGINS:
        client = trusting.client(Cookie="a=b", **headers)
        for method, path in [*calls, ("POST", "/auth/sign-in"), ("POST", "/auth/sign-out")]:
            response = await client.request(method, path)
            assert (response.status_code == 403) is not allowed, (method, path, headers)
        for method in ("GET", "HEAD", "OPTIONS"):
            assert (await client.request(method, "/api/widgets")).status_code in {401, 405}


async def test_programs_need_no_origin(trusting: Site) -> None:
    """What no browser sends by itself: a bearer token or a key; or no cookie at all."""
    quiet = {"User-Agent": "program"}
    for headers in (
        {"Authorization": "Bearer x", "Cookie": "a=b", "Sec-Fetch-Site": "cross-site"},
        {"X-API-Key": "x", "Cookie": "a=b", "Origin": OTHER},
    ):
        response = await trusting.client(**headers).post("/api/widgets", json={"name": "x"})
        assert response.status_code == 401
    assert (await sign_in(trusting.client(**quiet))).status_code == 401
    doubled = [("Origin", SITE), ("Origin", OTHER)]
    response = await trusting.client(**quiet).post("/auth/sign-out", headers=doubled)
    assert response.status_code == 403


async def test_sockets_open_for_the_site_itself_and_for_callers(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A WebSocket begins with a cookie as any request does, and holds no `TenantTx`."""
    client = await site.signed_in()
    mine = f"__Host-session={client.cookies['__Host-session']}"
    for origin, cookie, path, expected in (
        (SITE, mine, "/api/socket", ["websocket.accept", "websocket.close"]),
        (SITE, "a=b", "/api/socket", ["websocket.close"]),
        (OTHER, mine, "/api/socket", ["websocket.close"]),
        (SITE, mine, "/api/long", ["websocket.close"]),
    ):
        headers = {"host": "app.example.com", "origin": origin, "cookie": cookie}
        scope = {
            "type": "websocket", "path": path, "query_string": b"", "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "scheme": "wss", "subprotocols": [],
        }  # fmt: skip
        said: list[str] = []

        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            said.append(message["type"])  # noqa: B023 - it is called within the same turn

        await site.app(scope, receive, send)
        assert said == expected
    assert "TenantTx is not for sockets" in caplog.text


async def test_tenants_stay_apart(site: Site, tenants: TenantPair) -> None:
    """By cookie, by token and by key, each sees its own rows, whatever else the request names."""
    ada, bob = await site.signed_in(), await site.signed_in("bob@globex.example", tenant="globex")
    assert (await ada.post("/api/widgets", json={"name": "acme's"})).status_code == 201
    named = {"X-Tenant": str(tenants.a.id), "Host": "acme.example.com"}
    query = f"/api/widgets?tenant={tenants.a.slug}&tenant_id={tenants.a.id}"
    assert (await bob.get(query, headers=named)).json() == []
    for tenant, widgets in ((tenants.a, ["acme's"]), (tenants.b, [])):
        key = (await site.auth.issue_api_key(tenant.id)).key
        for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
            program = site.client(**headers)
            assert (await program.get("/api/widgets")).json() == widgets
            assert (await program.get("/api/program")).json() == str(tenant.id)
            assert (await program.get("/api/who")).json() == "api_key"
            for path in ("/auth/session", "/auth/sessions", "/api/members"):
                assert (await program.get(path)).status_code == 403


async def test_roles_are_required(site: Site) -> None:
    """An owner is an admin and a member; a member is neither; nobody is none of them."""
    ada, bob = await site.signed_in(), await site.signed_in("bob@globex.example", tenant="globex")
    paths = ("/api/owners", "/api/admins", "/api/members", "/api/program")
    for client, expected in (
        (ada, [200, 200, 200, 403]),
        (bob, [403, 403, 200, 403]),
        (site.client(), [401, 401, 401, 401]),
    ):
        assert [(await client.get(path)).status_code for path in paths] == expected


async def test_malformed_credentials_are_refused(site: Site) -> None:
    """Doubled, oversized, garbled or of the wrong kind: 401, and never 500."""
    client = await site.signed_in()
    token = client.cookies["__Host-session"]
    mine = ("Cookie", f"__Host-session={token}")
    bearer = ("Authorization", f"Bearer {token}")
    bad: list[list[tuple[str, Any]]] = [
        [],
        [("Cookie", f"__Host-session={token}; __Host-session={token}")],
        [mine, mine],
        [("Cookie", f"__Host-session={token}x")],
        [("Cookie", f'__Host-session="{token}"')],
        [("Cookie", "__Host-session=" + "x" * 100_000)],
        [("Cookie", b"__Host-session=\xff\x00;;;=;")],
        [("Cookie", f"session={token}")],
        [bearer, bearer],
        [("Authorization", "Bearer "), mine],
        [("Authorization", "Bearer"), mine],  # as servers pass on the one before
        [("Authorization", f"Bearer\t{token}x"), mine],
        [("Authorization", f"Bearer {token}, Bearer {token}")],
        [("Authorization", f"Token {token}")],
        [("Authorization", b"Bearer \xff\xfe")],
        [("Authorization", "Bearer tnt_" + "x" * 100_000)],
        [("X-API-Key", token)],
        [("X-API-Key", "tnt_"), bearer],
    ]
    stranger = site.client(**{"User-Agent": "x"})
    for headers in bad:
        response = await stranger.get("/api/widgets", headers=headers)
        assert response.status_code == 401, headers
        assert response.headers["www-authenticate"] == "Bearer"
    for headers in ([mine], [bearer], [("Authorization", "Basic eDp5"), mine]):
        assert (await stranger.get("/api/widgets", headers=headers)).status_code == 200


async def test_an_optional_caller_is_nobody_without_a_good_cookie(site: Site) -> None:
    """A cookie that is no longer good counts as none; a bad token is refused."""
    assert (await site.client().get("/api/who")).json() is None
    response = await site.client(Cookie="__Host-session=x").get("/api/who")
    assert (response.status_code, response.json()) == (200, None)
    doubled = [("X-API-Key", "x"), ("Authorization", "Bearer x")]
    for bad in ([("Authorization", "Bearer x")], [("Authorization", "Bearer")], doubled):
        assert (await site.client().get("/api/who", headers=bad)).status_code == 401
    assert (await (await site.signed_in()).get("/api/who")).json() == "session"


async def test_bodies_have_a_limit(site: Site) -> None:
    """Announced or not, 50 MB are refused, and are not read to the end."""
    client = await site.signed_in()
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(50):
            sent += 1
            yield b"x" * 1_000_000

    for body in (chunks(), b"x" * 50_000_000):
        response = await client.post("/api/widgets", content=body)
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
    assert sent < 20
    # Servers pass on a length beside chunks of another one.
    understated = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
    for length in ("+1", "0" * 20 + "50000000"):
        odd = await client.post("/api/widgets", headers={"Content-Length": length}, content=b"x")
        assert odd.status_code == 413
    sent = 0
    response = await client.post("/api/widgets", headers=understated, content=chunks())
    assert (response.status_code, sent < 20) == (413, True)


async def test_a_strangers_body_is_not_read_where_a_caller_is_needed(site: Site) -> None:
    """Whatever is in it, and in an application that is mounted, too: first 401, and no byte is
    parsed. Where nobody is needed it is read, as before."""
    mounted = FastAPI()
    mounted.include_router(routes)
    site.app.mount("/mounted", mounted)
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(9):
            sent += 1
            yield b"[" * 1_000_000

    kind = {"Content-Type": "application/json"}
    expired = {**kind, "Cookie": "__Host-session=x"}
    for path in ("/api/widgets", "/auth/password", "/mounted/api/widgets"):
        for headers in (kind, expired):
            response = await site.client().post(path, content=chunks(), headers=headers)
            assert (response.status_code, sent) == (401, 0), path
            assert response.headers["www-authenticate"] == "Bearer"
    response = await site.client().post("/auth/sign-in", content=chunks(), headers=kind)
    assert (response.status_code, sent) == (413, 1)
    client = await site.signed_in()
    for path in ("/api/widgets", "/mounted/api/widgets"):
        assert (await client.post(path, json={"name": "x"})).status_code == 201
        assert (await client.post(path, content=b"[", headers=kind)).status_code == 422


async def test_a_caller_that_a_test_makes_up_is_not_asked_for_a_credential(
    site: Site, tenants: TenantPair
) -> None:
    """FastAPI's overrides take the place of looking it up, before the body as after it."""

    @site.app.post("/echo")
    async def echo(body: dict[str, str], principal: CurrentPrincipal) -> str:
        return str(principal.tenant_id)

    principal = await site.auth.validate(
        (await site.auth.sign_in(tenants.a.id, EMAIL, PASSWORD)).token
    )
    asked = get_args(CurrentPrincipal)[1].dependency
    site.app.dependency_overrides[asked] = lambda: principal
    response = await site.client().post("/echo", json={"a": "b"})
    assert (response.status_code, response.json()) == (200, str(tenants.a.id))


async def test_strangers_may_send_little(site: Site) -> None:
    """To the routes of signing in: 64 KiB; and of what is wrong, 20 faults are told."""
    fields = {f"field {number}": 0 for number in range(2_000)}
    response = await site.client().post("/auth/sign-in", json=fields)
    assert response.status_code == 422
    assert len(response.json()["errors"]) == 20
    response = await site.client().post("/auth/sign-in", json={"x": "x" * 70_000})
    assert response.status_code == 413


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
async def test_deep_bodies_are_malformed_and_no_fault(
    site: Site, opened: str, closed: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Read by the parser or too deep for it, as the body or within it: 4xx, never 500."""
    site.raises = False
    client, kind = await site.signed_in(), {"Content-Type": "application/json"}
    calls = [("/auth/sign-in", depth) for depth in (10, *range(880, 960), 1_500, 10_000)]
    calls += [("/api/widgets", depth) for depth in (10, 914, 1_500, 10_000)]
    statuses = set()
    for path, depth in calls:
        nested = f"{opened * depth}0{closed * depth}"
        for body in (nested, f'{{"email": {nested}, "name": {nested}, "password": "{PASSWORD}"}}'):
            response = await client.post(path, content=body, headers=kind)
            assert response.status_code in {400, 413, 422}, (depth, path, response.text)
            assert response.headers["content-type"] == "application/problem+json"
            assert PASSWORD not in response.text
            statuses.add(response.status_code)
    assert {400, 422} <= statuses
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "multipart/form-data"])
async def test_other_content_types_are_refused(site: Site, content_type: str) -> None:
    """As a problem, with nothing of the body in it."""
    response = await site.client().post(
        "/auth/sign-in", content=b'{"email": "secret"}', headers={"Content-Type": content_type}
    )
    assert response.status_code in {400, 415, 422}
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text


async def test_a_late_answer_deletes_no_newer_cookie(site: Site) -> None:
    """Browsers forget cookies by name: so only who signs out has one deleted, no failed look-up."""
    browser = await site.signed_in()
    old = browser.cookies["__Host-session"]
    assert (await sign_in(browser)).status_code == 200
    late = site.client(Cookie=f"__Host-session={old}", Origin=SITE)
    for method, path in (("GET", "/auth/session"), ("GET", "/api/who"), ("POST", "/api/widgets")):
        assert "set-cookie" not in (await late.request(method, path)).headers
    for cookie in ("x", f"{old}; __Host-session={old}"):
        answer = await site.client(Cookie=f"__Host-session={cookie}").get("/api/widgets")
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)


def test_a_new_cookie_outlives_the_deletion_of_the_old_one() -> None:
    """Who signs out and in again in one request is signed in."""
    door = Door(DoorSettings())
    exchange = Exchange(door, {"path": "/auth/sign-in", "headers": []})
    exchange.drops_cookie = True
    gone = [value for name, value in exchange.marked([]) if name == b"set-cookie"]
    assert gone == [door.cookie.gone().encode()]
    exchange.new_cookies = ["__Host-session=new; Path=/"]
    kept = [value for name, value in exchange.marked([]) if name == b"set-cookie"]
    assert kept == [b"__Host-session=new; Path=/"]


def test_the_routes_of_signing_in_are_known_below_a_root_path() -> None:
    """Their answers are not to be stored, wherever the application is mounted."""
    door = Door(DoorSettings())
    for path, root, expected in (
        ("/api/auth/sign-in", "/api", True),
        ("/auth/sign-in", "", True),
        ("/api/widgets", "/api", False),
    ):
        exchange = Exchange(door, {"path": path, "root_path": root, "headers": []})
        assert exchange.used_credential is expected


def test_routes_are_not_tried_for_paths_that_are_not_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An application's request does not pay for the routes of signing in, which come first."""
    monkeypatch.setattr(APIRouter, "matches", lambda *_: (Match.FULL, {}), raising=False)
    routes = Routes()
    routes.starts = ("/auth/", "/healthz")
    for path, root, expected in (
        ("/authors", "", Match.NONE),
        ("/", "", Match.NONE),
        ("/api/healthy", "/api", Match.NONE),
        ("/api/auth/session", "/api", Match.FULL),
        ("/healthz", "", Match.FULL),
    ):
        assert routes.matches({"path": path, "root_path": root})[0] is expected


async def test_requests_have_ids(site: Site) -> None:
    """One that is sane is kept, and any other replaced; a problem names it."""
    client = site.client()
    for given, kept in (
        ("0198c0de-0000", True),
        ("x y", False),
        ("a" * 99, False),
        ("no\n", False),
    ):
        response = await client.get("/api/widgets", headers=[("X-Request-ID", given.strip())])
        answered = response.headers["x-request-id"]
        assert (answered == given) is kept or given == "no\n"
        assert response.json()["instance"] == answered
    ids = {(await client.get("/healthz")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


async def test_applications_do_not_share_anything(urls: Urls, tenants: TenantPair) -> None:
    """Two in one process have doors of their own."""
    async with running(urls) as one, running(urls, cookie_name="other") as two:
        assert one.app.state.tenantry is not two.app.state.tenantry
        await one.auth.register(tenants.a.id, "eve@acme.example", "correct horse battery staple")
        browsers = [await site.signed_in("eve@acme.example") for site in (one, two)]
        jars = [{name for name in each.cookies if "device" not in name} for each in browsers]
        assert jars == [{"__Host-session"}, {"__Host-other"}]
        # But for what is in the database, as the threat model says.
        token = browsers[1].cookies["__Host-other"]
        answer = await one.client(Cookie=f"__Host-session={token}").get("/api/widgets")
        assert answer.status_code == 200
